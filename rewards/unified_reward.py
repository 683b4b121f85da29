"""UnifiedReward (arXiv 2503.05236) and its kin: vision-language models that mark a picture, or compare two.

They are served, or local: the option `judge` as in judge.py, of a model that sees pictures. Templates are ours; the
models' own prompts are given by the option `template` (a text, or a .txt file, with $caption), which the published
scale needs. jpeg: quality of the pictures as they are sent, 95 as in the published clients; null sends PNG.
A judge that is down, refuses or gives no clear mark makes the sample invalid, where the published code has 0 or a tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mmrl.pictures import PictureError
from mmrl.rewarding import group_reward, win_rate
from mmrl.rewarding.chat import Failure
from mmrl.rewarding.parts import JPEG, picture_part
from mmrl.types import Group, Sample, Score

from . import picture_templates as templates
from .judging import open_judge, shown, template_of
from .marks import Winners, said_better, said_mark, said_marks, said_shares, said_winners
from .towers import rgb, score_pictures

AXES = ("alignment", "coherence", "style")
LOWEST, HIGHEST = 1.0, 5.0
_EQUAL = dict.fromkeys(AXES, 1.0)


class _Seen:
    """What these rewards share: the judge, the words, and pictures as parts of a message."""

    def __init__(
        self,
        judge: Mapping[str, Any],
        template: str | None,
        default: str,
        jpeg: int | None,
        axes: Mapping[str, float] | None = None,
    ) -> None:
        if jpeg is not None and not 1 <= jpeg <= 100:
            raise ValueError(f"jpeg={jpeg} must be from 1 to 100, or null for PNG")
        if axes is not None and (not axes or not all(math.isfinite(w) and w > 0 for w in axes.values())):
            raise ValueError(f"axes={dict(axes)}: name one or more, each with a weight above 0")
        self.axes, self.jpeg = dict(axes or {}), jpeg
        names = {"caption", "axes"} if axes is not None else {"caption"}
        self.template = template_of(template, default, names, needed="caption")
        self.judge = open_judge(judge, sees=True)
        self.groups_at_once = self.judge.threads

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: a judge that is down is left alone for a while."""
        self.judge.as_monitor()

    def _request(self, parts: Sequence[Mapping[str, Any]], caption: str) -> Any:
        words = {"axes": ", ".join(self.axes)} if self.axes else {}
        return shown(parts, self.template, caption=caption, **words)

    def _mean(self, values: Sequence[float]) -> float:
        """By the weights of the axes."""
        return sum(w * v for w, v in zip(self.axes.values(), values)) / sum(self.axes.values())


class _Point(_Seen):
    """A mark of each picture for itself, divided by `divide`."""

    def __init__(
        self,
        judge: Mapping[str, Any],
        divide: float,
        template: str | None,
        default: str,
        jpeg: int | None,
        axes: Mapping[str, float] | None = None,
    ) -> None:
        if not (math.isfinite(divide) and divide > 0):
            raise ValueError(f"divide={divide} must be above 0")
        super().__init__(judge, template, default, jpeg, axes)
        self.divide = divide

    def _marked(self, samples: list[Sample], read: Callable[[str], Any], score: Callable[[Any], Score]) -> list[Score]:
        def verdicts(pictures: list[Any], texts: list[str]) -> list[Any]:
            asked = [self._request([picture_part(p, self.jpeg)], text) for p, text in zip(pictures, texts)]
            found = self.judge.verdicts(asked, read)
            return [_invalid(verdict) if isinstance(verdict, Failure) else score(verdict) for verdict in found]

        return score_pictures(samples, verdicts)


class point(_Point):
    """UnifiedReward 1.x: the mark from 1 to 5 after "Final Score:", divided by `divide`.

    divide: 5 gives Flow-GRPO's numbers. judge, template, jpeg: see the top of this file.
    """

    def __init__(
        self, judge: Mapping[str, Any], divide: float = 1.0, template: str | None = None, jpeg: int | None = JPEG
    ) -> None:
        super().__init__(judge, divide, template, templates.POINT, jpeg)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        read = partial(said_mark, name="final score", low=LOWEST, high=HIGHEST)
        return self._marked(samples, read, lambda mark: Score.of(mark / self.divide, mark=mark))


class axes(_Point):
    """UnifiedReward 2.0 of one picture: the mean of its marks from 1 to 5 for alignment, coherence and style.

    axes: axis -> weight in the mean; `details` has each mark. divide, judge, template, jpeg: as for `point`.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        axes: Mapping[str, float] = _EQUAL,
        divide: float = 1.0,
        template: str | None = None,
        jpeg: int | None = JPEG,
    ) -> None:
        super().__init__(judge, divide, template, templates.AXES, jpeg, axes)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        names = [f"{axis} score" for axis in self.axes]
        return self._marked(samples, lambda reply: said_marks(reply, names, LOWEST, HIGHEST), self._score)

    def _score(self, marks: list[float]) -> Score:
        return Score.of(self._mean(marks) / self.divide, **dict(zip(self.axes, marks)))


class _Pairs(_Seen):
    """A win rate in the group by a judge of two pictures, in both orders unless told otherwise.

    The published code (Pref-GRPO) asks in one order and counts what it cannot read as a tie; here such a pair is left
    out. Two pictures of the same pixels tie, unasked. All pairs of a group are asked side by side, as many at a time as
    the judge's `threads`. rate: options of win_rate: both_orders, hard, margin, min_spread, schedule with neighbours
    (regular: each picture meets that many others), score with prior (bradley_terry: log-odds).
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        template: str | None,
        default: str,
        jpeg: int | None,
        rate: Mapping[str, Any],
        axes: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(judge, template, default, jpeg, axes)
        self._rate = win_rate(_Asked(self), **rate)

    def __call__(self, group: Group) -> list[Score]:
        return self._rate(group)

    def read(self, reply: str) -> Any:
        """The judge's verdict, or None where its words give none."""
        raise NotImplementedError

    def share(self, verdict: Any) -> float:
        """The first picture's part of 1."""
        return float(verdict)


class _Asked:
    """The judge of two pictures as win_rate asks it: about many pairs at a time."""

    def __init__(self, reward: _Pairs) -> None:
        self.reward = reward

    def judge_pairs(self, pairs: Sequence[tuple[Sample, Sample]]) -> list[float | str]:
        samples = {id(sample): sample for pair in pairs for sample in pair}
        parts = {key: self._part(sample) for key, sample in samples.items()}
        shown = [(parts[id(a)], parts[id(b)]) for a, b in pairs]
        known = [_unasked(*both) for both in shown]
        asked = [
            self.reward._request(both, a.prompt.text)
            for (a, _), both, answer in zip(pairs, shown, known)
            if answer is None
        ]
        verdicts = iter(self.reward.judge.verdicts(asked, self.reward.read) if asked else ())
        return [self._answer(next(verdicts)) if answer is None else answer for answer in known]

    def _part(self, sample: Sample) -> Mapping[str, Any] | str:
        """The picture as a part of a message, or why there is none."""
        try:
            return picture_part(rgb(sample.artifact), self.reward.jpeg)
        except (PictureError, ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"

    def _answer(self, verdict: Any) -> float | str:
        if isinstance(verdict, Failure):
            return f"the judge gave no verdict: {verdict.reason}"
        return self.reward.share(verdict)


def _unasked(first: Mapping[str, Any] | str, second: Mapping[str, Any] | str) -> float | str | None:
    """What needs no judge: equal pictures are a tie, and what is no picture is not judged."""
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    return 0.5 if first == second else None


@group_reward
class think(_Pairs):
    """UnifiedReward-Think, the reward of Pref-GRPO: wins by "<answer>Image 1 is better</answer>", 0 to 1.

    judge, template, jpeg: see the top of this file. both_orders, hard, min_spread: see mmrl.rewarding.win_rate.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        both_orders: bool = True,
        hard: bool = False,
        min_spread: float = 0.0,
        template: str | None = None,
        jpeg: int | None = JPEG,
        schedule: str = "round_robin",
        neighbours: int = 4,
        score: str = "win_rate",
        prior: float = 1.0,
    ) -> None:
        rate = {"both_orders": both_orders, "hard": hard, "min_spread": min_spread, "schedule": schedule}
        rate |= {"neighbours": neighbours, "score": score, "prior": prior}
        super().__init__(judge, template, templates.THINK, jpeg, rate)

    def __call__(self, group: Group) -> list[Score]:
        return super().__call__(group)

    def read(self, reply: str) -> float | None:
        return said_better(reply)


@group_reward
class shares(_Pairs):
    """UnifiedReward 2.0 of two pictures, which share 1 on each axis: the mean of a picture's shares in its pairs.

    axes: axis -> weight in the mean. judge, template, jpeg: see the top of this file. both_orders, hard, margin,
    min_spread: see mmrl.rewarding.win_rate.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        axes: Mapping[str, float] = _EQUAL,
        both_orders: bool = True,
        hard: bool = False,
        margin: float = 0.0,
        min_spread: float = 0.0,
        template: str | None = None,
        jpeg: int | None = JPEG,
        schedule: str = "round_robin",
        neighbours: int = 4,
        score: str = "win_rate",
        prior: float = 1.0,
    ) -> None:
        rate = {"both_orders": both_orders, "hard": hard, "margin": margin, "min_spread": min_spread}
        rate |= {"schedule": schedule, "neighbours": neighbours, "score": score, "prior": prior}
        super().__init__(judge, template, templates.SHARES, jpeg, rate, axes)

    def __call__(self, group: Group) -> list[Score]:
        return super().__call__(group)

    def read(self, reply: str) -> list[float] | None:
        return said_shares(reply, [f"{axis} score" for axis in self.axes])

    def share(self, verdict: Any) -> float:
        return self._mean(verdict)


@group_reward
class flex(_Pairs):
    """UnifiedReward-Flex: wins overall and in the first three categories of its JSON, weighted.

    overall, categories: weights of the win overall and of the categories' mean, as in Pref-GRPO. each: weights of the
    categories in that mean, by their place. judge, template, jpeg: see the top of this file. both_orders, hard, margin,
    min_spread: see mmrl.rewarding.win_rate.

    Pref-GRPO with GDPO normalises the win overall and the categories' mean apart: name this reward twice, once with
    `categories: 0` and once with `overall: 0`, each with its weight, and the same `cache` in both judges: what the one
    asked is then known to the other.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        overall: float = 0.3,
        categories: float = 0.7,
        each: Sequence[float] = (1.0, 0.7, 0.7),
        both_orders: bool = True,
        hard: bool = False,
        margin: float = 0.0,
        min_spread: float = 0.0,
        template: str | None = None,
        jpeg: int | None = JPEG,
        schedule: str = "round_robin",
        neighbours: int = 4,
        score: str = "win_rate",
        prior: float = 1.0,
    ) -> None:
        if min(overall, categories) < 0 or not math.isfinite(overall + categories) or overall + categories <= 0:
            raise ValueError(f"overall={overall}, categories={categories}: 0 or more each, and not both 0")
        if not each or not all(math.isfinite(weight) and weight > 0 for weight in each):
            raise ValueError(f"each={list(each)}: one or more weights above 0")
        rate = {"both_orders": both_orders, "hard": hard, "margin": margin, "min_spread": min_spread}
        rate |= {"schedule": schedule, "neighbours": neighbours, "score": score, "prior": prior}
        super().__init__(judge, template, templates.FLEX, jpeg, rate)
        self.overall, self.categories, self.each = overall, categories, list(each)

    def __call__(self, group: Group) -> list[Score]:
        return super().__call__(group)

    def read(self, reply: str) -> Winners | None:
        return said_winners(reply)

    def share(self, told: Winners) -> float:
        weighted = list(zip(self.each, told.categories))
        if not weighted or not self.categories:
            return told.overall
        mean = sum(weight * won for weight, won in weighted) / sum(weight for weight, _ in weighted)
        return (self.overall * told.overall + self.categories * mean) / (self.overall + self.categories)


def _invalid(failure: Failure) -> Score:
    return Score.invalid(f"the judge gave no verdict: {failure.reason}")
