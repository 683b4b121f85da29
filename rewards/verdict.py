"""Verdicts of a judge that is trained: on pairs (environment `pairs`), and as one score of one answer.

What a policy writes amiss (no verdict, two, one of a response that was not shown) is wrong, with the reason in the
details. What the record or the run lacks is invalid: `shares` of the preference, and the order in which the candidates
were shown, which the environment notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.rewarding.verdicts import leaning, read_verdict
from mmrl.thoughts import behind_thoughts
from mmrl.types import Prompt, Sample, Score

from . import judge as judged
from .answers import text_of
from .places import reasoning

_FORM = re.compile(r"<think>((?:(?!</?think>).)*)</think><answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_TAGS = re.compile(r"</?(?:think|answer)>")


def right(samples: list[Sample], soft: bool = False) -> list[Score]:
    """1 where the <answer> names the preferred candidate, else 0; by `shares`, through the order that was shown.

    Preferred is each candidate with the largest of the `shares`, of several right answers any. Where all shares are
    equal there is nothing to tell apart, and the reward does not apply. soft: the share of the candidate that is named
    instead of 1 or 0, where shares are a label's probabilities.
    """
    return [_right(sample, soft) for sample in samples]


def consistent(samples: list[Sample]) -> list[Score]:
    """1 where the last verdict in the words of the <think> is the one in the <answer>, -1 where it is another, 0 where
    there is none in one of both. By rule (mmrl.rewarding.verdicts.leaning); judge.consistent asks a model.
    """
    return [_consistent(sample) for sample in samples]


class r1_reward:
    """0.5 format + right (1 + 0.5 consistent): R1-Reward's sum, from 0 to 2.

    format: 1 where the completion is one <think>...</think><answer>...</answer>, nothing between them and none of these
    tags elsewhere. right, soft: see there. consistent: by rule, or, with the option `judge` (and `options` of
    judge.consistent), a model's word, asked where the answer is right; without its verdict the sample is invalid (0 in
    the released code). Right and consistent is 2, undecided 1.5, contradicted 1; wrong in good form 0.5, else 0.
    opened: the model's template has opened the thought already, and the policy only closes it.
    """

    def __init__(
        self,
        soft: bool = False,
        opened: bool = False,
        judge: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if options and judge is None:
            raise ValueError("options are those of judge.consistent; give `judge`, or leave them out")
        self.soft, self.opened = soft, opened
        self.asked = None if judge is None else judged.consistent(judge, **(options or {}))
        self.groups_at_once = 1 if self.asked is None else self.asked.groups_at_once

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: a judge that is down is left alone for a while."""
        if self.asked is not None:
            self.asked.as_monitor()

    def __call__(self, samples: list[Sample]) -> list[Score]:
        rights = [_right(sample, self.soft) for sample in samples]
        agreed = self._agreed(samples, rights)
        return [self._sum(*given) for given in zip(samples, rights, agreed, strict=True)]

    def check_prompt(self, prompt: Prompt) -> str | None:
        return check_prompt(prompt)

    def _agreed(self, samples: Sequence[Sample], rights: Sequence[Score]) -> list[Score]:
        if self.asked is None:
            return consistent(list(samples))
        put = [number for number, score in enumerate(rights) if score.value]
        answers = dict(zip(put, self.asked([samples[number] for number in put])))
        return [answers.get(number, Score.of(0.0)) for number in range(len(samples))]

    def _sum(self, sample: Sample, right: Score, agreed: Score) -> Score:
        if right.value is None:
            return right
        if agreed.value is None:
            return agreed
        form = float(well_formed(text_of(sample), self.opened))
        value = 0.5 * form + right.value * (1 + 0.5 * agreed.value)
        return Score.of(value, format=form, right=right.value, consistent=agreed.value, **right.details)


def well_formed(text: str, opened: bool = False) -> bool:
    """Whether a text is one <think>...</think><answer>...</answer>; white space around it does not count."""
    text = text.strip()
    if opened and not text.startswith("<think>"):
        text = f"<think>{text}"
    return _FORM.fullmatch(text) is not None and len(_TAGS.findall(text)) == 4


class scored:
    """How near the number behind `label` ("Final Score: 4") is to the record's: 1 - distance / (high - low).

    label: the words before the number, case aside. column: of the record's number. low, high: the scale. within: 1 for
    a distance of at most so much, else 0, instead. No number, several that differ and one off the scale are 0, with the
    reason; so is one of another scale ("4/10" of 5).
    """

    def __init__(
        self,
        label: str = "Final Score",
        column: str = "score",
        low: float = 1.0,
        high: float = 5.0,
        within: float | None = None,
    ) -> None:
        if not label.strip() or low >= high:
            raise ValueError(f"label={label!r}, low={low}, high={high}: needs a label, and low below high")
        if within is not None and not 0 <= within < high - low:
            raise ValueError(f"within={within}: must be from 0 to less than the scale's {high - low:g}")
        self.column, self.low, self.high, self.within = column, low, high, within
        named, number = r"\s+".join(map(re.escape, label.split())), r"\d+(?:\.\d+)?"
        told = rf"(?<!\w){named}(?!\w)[^\w\n+-]{{0,8}}([-+]?{number})(?:\s*/\s*({number}))?"
        self.pattern = re.compile(rf"{told}(?!\s*[-–~/]\s*\d|[\w%]|\.\d)", re.IGNORECASE)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def check_prompt(self, prompt: Prompt) -> str | None:
        gold = prompt.record.get(self.column)
        if isinstance(gold, bool) or not isinstance(gold, int | float) or not self.low <= gold <= self.high:
            return (
                f"prompt {prompt.id!r} has {self.column}={gold!r:.40}, expected a number from {self.low:g} to "
                f"{self.high:g}"
            )
        return None

    def _score(self, sample: Sample) -> Score:
        if problem := self.check_prompt(sample.prompt):
            return Score.invalid(problem)
        said = self._said(behind_thoughts(text_of(sample)))
        if isinstance(said, str):
            return Score.of(0.0, why=said)
        off = abs(said - float(sample.prompt.record[self.column]))
        value = 1 - off / (self.high - self.low) if self.within is None else float(off <= self.within)
        return Score.of(value, said=said)

    def _said(self, text: str) -> float | str:
        found = {(float(number), float(of or self.high)) for number, of in self.pattern.findall(text)}
        if len(found) != 1:
            return f"{len(found)} different scores" if found else "no score"
        ((number, of),) = found
        if of != self.high or not self.low <= number <= self.high:
            return f"score {number:g} of {of:g} is off the scale from {self.low:g} to {self.high:g}"
        return number


def check_prompt(prompt: Prompt) -> str | None:
    """Why a record holds no preference, or None."""
    shares, candidates = prompt.record.get("shares"), prompt.record.get("candidates")
    numbers = list(shares) if isinstance(shares, list | tuple) else []
    good = all(isinstance(s, int | float) and not isinstance(s, bool) and 0 <= s <= 1 for s in numbers)
    if not good or len(numbers) < 2 or abs(sum(numbers) - 1) > 1e-3:
        return f"prompt {prompt.id!r} has shares={shares!r:.60}, expected numbers that sum to 1, one a candidate"
    if isinstance(candidates, list | tuple) and len(candidates) != len(numbers):
        return f"prompt {prompt.id!r} has {len(candidates)} candidates and {len(numbers)} shares"
    return None


def _right(sample: Sample, soft: bool) -> Score:
    if problem := check_prompt(sample.prompt) or _unordered(sample):
        return Score.invalid(problem)
    shares, order = sample.prompt.record["shares"], sample.info["order"]
    if max(shares) == min(shares):
        return Score(None, "a tie: no candidate is preferred", "na")
    place = read_verdict(text_of(sample), len(order))
    if isinstance(place, str):
        return Score.of(0.0, why=place)
    share = shares[order[place]]
    return Score.of(float(share) if soft else float(share == max(shares)), chosen=order[place], place=place)


def _unordered(sample: Sample) -> str | None:
    order, count = sample.info.get("order"), len(sample.prompt.record["shares"])
    if isinstance(order, list | tuple) and sorted(order) == list(range(count)):
        return None
    return (
        f"prompt {sample.prompt.id!r}: nothing says in which order the candidates were shown; set environment: "
        "{name: pairs}"
    )


def _consistent(sample: Sample) -> Score:
    text, order = text_of(sample), sample.info.get("order") or (0, 1)
    place = read_verdict(text, len(order))
    if isinstance(place, str):
        return Score.of(0.0, why=place)
    leans = leaning(reasoning(text) or "", len(order))
    if leans is None:
        return Score.of(0.0, why="no verdict in the reasoning")
    return Score.of(1.0 if leans == place else -1.0, reasoning=leans, place=place)
