"""A judge of pairs as a number for each sample: R1-Reward, Pref-GRPO's judges and their kin, from disk or served.

The option `judge` is a word for mmrl.judging.load.open_judge: a run's or a checkpoint's folder, the URL of an
OpenAI-compatible endpoint (with `judge_options: {model: name}`), or a reward's name, as configs have it (its options
are `judge_options`): that reward then says which of two is better, composition.follows by what the pictures show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.judging.asking import is_comparer
from mmrl.judging.base import Comparer, Scorer, Showing
from mmrl.judging.load import open_judge
from mmrl.rewarding import group_reward, win_rate
from mmrl.types import Candidate, Group, Pair, Prompt, Sample, Score

from .answers import final_answer


@group_reward
class wins:
    """How much of the group's other samples a sample beats in the judge's eyes, or its strength: see win_rate.

    judge, judge_options: see the top of this file; environment, temperature and form are among its options. One that
    scores candidates alone (a scalar model, a reward) scores each once, and the probability that a beats b is
    sigmoid(score of a - score of b), Bradley-Terry's; with `hard` the higher score wins, and equal ones tie.
    extract: the piece of a text that is compared, see answers.final_answer; a picture is compared as it is. schedule,
    neighbours, score, prior, both_orders, hard, margin, min_spread: see mmrl.rewarding.win_rate. anchors: with
    `schedule: anchors`, the column that holds given answers, texts or pictures. All pairs of a group are asked at once,
    and groups side by side where the judge is served. A text without the piece that is compared loses against all that
    have one; a verdict that does not come masks its pair.
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
        margin: float = 0.0,
        min_spread: float = 0.0,
    ) -> None:
        final_answer("", extract)
        opened = open_judge(judge, **(judge_options or {}))
        if not both_orders and not is_comparer(opened):
            raise ValueError(f"judge={judge!r:.80} sees one candidate at a time: leave out both_orders")
        self.judge, self.anchors, self.groups_at_once = opened, anchors, getattr(opened, "at_once", 1)
        self._check = getattr(getattr(opened, "reward", None), "check_prompt", None)
        self.rate = win_rate(
            _Comparing(opened, extract) if is_comparer(opened) else _Scoring(opened, extract),
            schedule=schedule,
            neighbours=neighbours,
            anchors=self._anchored if anchors is not None else None,
            score=score,
            prior=prior,
            both_orders=both_orders,
            hard=hard,
            margin=margin,
            min_spread=min_spread,
        )

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: a judge that is down is left alone for a while."""
        getattr(self.judge, "as_monitor", lambda: None)()

    def __call__(self, group: Group) -> list[Score]:
        return self.rate(group)

    def check_prompt(self, prompt: Prompt) -> str | None:
        if self.anchors is not None and not _listed(prompt.record.get(self.anchors)):
            return f"its column {self.anchors!r} holds nothing to compare with"
        return None if self._check is None else self._check(prompt)

    def _anchored(self, group: Group) -> list[Sample]:
        given = _listed(group.prompt.record.get(self.anchors or ""))
        return [Sample(group.prompt, -1 - number, one) for number, one in enumerate(given)]


class _Judge:
    """A judge as win_rate asks it: what needs none is not put to it."""

    def __init__(self, extract: str) -> None:
        self.extract = extract

    def judge_pairs(self, pairs: Sequence[tuple[Sample, Sample]]) -> list[float | str]:
        known = [self._unasked(a, b) for a, b in pairs]
        asked = [pair for pair, value in zip(pairs, known) if value is None]
        answers = iter(self.answers(asked) if asked else ())
        return [next(answers) if value is None else value for value in known]

    def answers(self, pairs: Sequence[tuple[Sample, Sample]]) -> Sequence[float | str]:
        """For each pair the probability that the first is better, or why there is none."""
        raise NotImplementedError

    def _unasked(self, a: Sample, b: Sample) -> float | None:
        """What needs no judge: equal texts are a tie, and nothing loses against something."""
        if not (isinstance(a.artifact, str) and isinstance(b.artifact, str)):
            return None
        said, other = (final_answer(sample.artifact, self.extract) for sample in (a, b))
        if said == other:
            return 0.5
        return None if said and other else float(bool(said))

    def _candidate(self, sample: Sample) -> Candidate:
        if isinstance(sample.artifact, str):
            return Candidate(final_answer(sample.artifact, self.extract) or "")
        return Candidate("", (sample.artifact,))


class _Comparing(_Judge):
    """One that is shown two candidates."""

    def __init__(self, judge: Comparer, extract: str) -> None:
        super().__init__(extract)
        self.judge = judge

    def answers(self, pairs: Sequence[tuple[Sample, Sample]]) -> list[float | str]:
        verdicts = self.judge.compare([Showing(self._pair(a, b), (0, 1)) for a, b in pairs])
        return [verdict.reason if verdict.shares is None else verdict.shares[0] for verdict in verdicts]

    def _pair(self, a: Sample, b: Sample) -> Pair:
        # The name of the pair is its own, so that a judge's noise is.
        prompt = Prompt(f"{a.prompt.id}\x1f{a.index}\x1f{b.index}", a.prompt.text, a.prompt.record, a.prompt.root)
        return Pair(prompt, (self._candidate(a), self._candidate(b)), (0.5, 0.5))


class _Scoring(_Judge):
    """One that scores each candidate, once a group however many it meets."""

    def __init__(self, judge: Scorer, extract: str) -> None:
        super().__init__(extract)
        self.judge = judge

    def answers(self, pairs: Sequence[tuple[Sample, Sample]]) -> list[float | str]:
        samples = list({id(sample): sample for pair in pairs for sample in pair}.values())
        told = self.judge.scores([(sample.prompt, self._candidate(sample)) for sample in samples])
        scores = {id(sample): score for sample, score in zip(samples, told, strict=True)}
        return [_preference(scores[id(a)], scores[id(b)]) for a, b in pairs]


def _preference(first: Score, second: Score) -> float | str:
    """The probability that the first is better, or why there is none."""
    if first.value is None or second.value is None:
        return first.reason if first.value is None else second.reason
    return 0.5 * (1.0 + math.tanh((first.value - second.value) / 2))


def _listed(value: Any) -> list[Any]:
    """What a column holds, one or several; [] for nothing."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
