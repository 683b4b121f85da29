"""A judge of pairs as a number for each sample: R1-Reward, Pref-GRPO's judges and their kin, from disk or served.

The option `judge` is a word for mmrl.judging.load.open_judge: a run's or a checkpoint's folder, or the URL of an
OpenAI-compatible endpoint (with `judge_options: {model: name}`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.judging.asking import is_comparer
from mmrl.judging.base import Comparer, Showing
from mmrl.judging.load import open_judge
from mmrl.rewarding import group_reward, win_rate
from mmrl.types import Candidate, Group, Pair, Prompt, Sample, Score

from .answers import final_answer


@group_reward
class wins:
    """How much of the group's other samples a sample beats in the judge's eyes, or its strength: see win_rate.

    judge, judge_options: see the top of this file; environment, temperature and form are among its options. extract:
    the piece of a text that is compared, see answers.final_answer; a picture is compared as it is. schedule,
    neighbours, score, prior, both_orders, hard: see mmrl.rewarding.win_rate. anchors: with `schedule: anchors`, the
    column that holds given answers, texts or pictures. All pairs of a group are asked at once. A text without the piece
    that is compared loses against all that have one; a verdict that does not come masks its pair.
    """

    def __init__(
        self,
        judge: str,
        judge_options: Mapping[str, Any] | None = None,
        extract: str = "whole",
        schedule: str = "round_robin",
        neighbours: int = 4,
        anchors: str | None = None,
        score: str = "win_rate",
        prior: float = 1.0,
        both_orders: bool = True,
        hard: bool = False,
    ) -> None:
        final_answer("", extract)
        opened = open_judge(judge, **(judge_options or {}))
        if not is_comparer(opened):
            raise ValueError(f"judge={judge!r:.80} scores candidates and compares none; it is a reward by itself")
        self.judge, self.anchors = opened, anchors
        self.rate = win_rate(
            _Judge(opened, extract),
            schedule=schedule,
            neighbours=neighbours,
            anchors=self._anchored if anchors is not None else None,
            score=score,
            prior=prior,
            both_orders=both_orders,
            hard=hard,
        )

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: a judge that is down is left alone for a while."""
        getattr(self.judge, "as_monitor", lambda: None)()

    def __call__(self, group: Group) -> list[Score]:
        return self.rate(group)

    def check_prompt(self, prompt: Prompt) -> str | None:
        if self.anchors is not None and not _listed(prompt.record.get(self.anchors)):
            return f"its column {self.anchors!r} holds nothing to compare with"
        return None

    def _anchored(self, group: Group) -> list[Sample]:
        given = _listed(group.prompt.record.get(self.anchors or ""))
        return [Sample(group.prompt, -1 - number, one) for number, one in enumerate(given)]


class _Judge:
    """The judge as win_rate asks it."""

    def __init__(self, judge: Comparer, extract: str) -> None:
        self.judge, self.extract = judge, extract
        self._lock = threading.Lock()

    def judge_pairs(self, pairs: Sequence[tuple[Sample, Sample]]) -> list[float | str]:
        known = [self._unasked(a, b) for a, b in pairs]
        asked = [Showing(self._pair(a, b), (0, 1)) for (a, b), value in zip(pairs, known) if value is None]
        with self._lock:
            verdicts = iter(self.judge.compare(asked) if asked else ())
        found: list[float | str] = []
        for value in known:
            if value is not None:
                found.append(value)
                continue
            verdict = next(verdicts)
            found.append(verdict.reason if verdict.shares is None else verdict.shares[0])
        return found

    def _unasked(self, a: Sample, b: Sample) -> float | None:
        """What needs no judge: equal texts are a tie, and nothing loses against something."""
        if not (isinstance(a.artifact, str) and isinstance(b.artifact, str)):
            return None
        said, other = (final_answer(sample.artifact, self.extract) for sample in (a, b))
        if said == other:
            return 0.5
        return None if said and other else float(bool(said))

    def _pair(self, a: Sample, b: Sample) -> Pair:
        # The name of the pair is its own, so that a judge's noise is.
        prompt = Prompt(f"{a.prompt.id}\x1f{a.index}\x1f{b.index}", a.prompt.text, a.prompt.record, a.prompt.root)
        return Pair(prompt, (self._candidate(a), self._candidate(b)), (0.5, 0.5))

    def _candidate(self, sample: Sample) -> Candidate:
        if isinstance(sample.artifact, str):
            return Candidate(final_answer(sample.artifact, self.extract) or "")
        return Candidate("", (sample.artifact,))


def _listed(value: Any) -> list[Any]:
    """What a column holds, one or several; [] for nothing."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
