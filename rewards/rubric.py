"""Rubrics: points that a reasoning should make, each marked by a judge several times over, as MMAR's are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmrl.rewarding.chat import Failure, Messages
from mmrl.types import Prompt, Sample, Score

from . import judge_templates as templates
from .answers import text_of
from .judge import Judged, question_of
from .judging import request, template_of
from .marks import said_mark
from .places import said_in_tag

_MARKS = (0.0, 1.0)


class points(Judged):
    """The share of the points of the record's `rubric` that the reasoning earns in the judge's eyes: MMAR-Rubrics.

    Each point {`scoring_point`, `note`, `choices`: its marks, 0 and 1 by default} is marked by itself, `ratings` times
    over; `trim` of the lowest and as many of the highest are dropped, and the rest averaged. The share is the sum over
    the highest possible. MMAR rates 5 times and trims the extremes, and gives 0 to wrong answers: that is
    compose.gated, with this behind it. Ratings are told apart by their seeds and by the option `temperature` of the
    judge; at 0, as MMAR asks, a server may say the same each time.
    tag: what is judged is the last whole <tag>; null takes the whole completion; without it the score is 0.
    column: where the rubric is. template: with $question, $answer, $point, $note and $marks, asking for "Score: mark".
    A rating that does not come makes the sample invalid.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        tag: str | None = None,
        ratings: int = 5,
        trim: int = 1,
        column: str = "rubric",
        longest: int = 4000,
        template: str | None = None,
    ) -> None:
        super().__init__(judge, longest)
        if trim < 0 or ratings <= 2 * trim:
            raise ValueError(f"ratings={ratings} with trim={trim} leaves none; take ratings above {2 * max(trim, 0)}")
        self.tag, self.ratings, self.trim, self.column = tag, ratings, trim, column
        self.template = template_of(template, templates.POINT, {"question", "answer", "point", "note", "marks"})

    def __call__(self, samples: list[Sample]) -> list[Score]:
        scores = [self._unasked(sample) for sample in samples]
        rubrics = {
            place: rubric_of(sample.prompt.record[self.column])
            for place, (sample, score) in enumerate(zip(samples, scores))
            if score is None
        }
        asked = [
            (place, number, draw)
            for place, rubric in rubrics.items()
            for number in range(len(rubric))
            for draw in range(self.ratings)
        ]
        ratings: dict[tuple[int, int], list[float | Failure]] = {}
        for marks in dict.fromkeys(rubrics[place][number].marks for place, number, _ in asked):
            some = [one for one in asked if rubrics[one[0]][one[1]].marks == marks]
            put = [self._request(samples[place], rubrics[place][number]) for place, number, _ in some]
            found = self.judge.verdicts(put, rubrics[some[0][0]][some[0][1]].read, [draw for *_, draw in some])
            for (place, number, _), rating in zip(some, found):
                ratings.setdefault((place, number), []).append(rating)
        for place, rubric in rubrics.items():
            scores[place] = self._share(rubric, [ratings[place, number] for number in range(len(rubric))])
        return [score or Score.invalid("the judge was not asked") for score in scores]

    def check_prompt(self, prompt: Prompt) -> str | None:
        try:
            rubric_of(prompt.record.get(self.column))
        except ValueError as error:
            return f"prompt {prompt.id!r}: `{self.column}` {error}"
        return None

    def _unasked(self, sample: Sample) -> Score | None:
        """The score of a sample about which nobody needs to be asked; None for the others."""
        if why := self.check_prompt(sample.prompt):
            given = sample.prompt.record.get(self.column)
            return Score(None, why, "na") if given is None else Score.invalid(why)
        return self._refused(self._said(sample))

    def _said(self, sample: Sample) -> str:
        text = text_of(sample)
        return ((text if self.tag is None else said_in_tag(text, self.tag)) or "").strip()

    def _request(self, sample: Sample, point: Point) -> Messages:
        words = {"point": point.text, "note": point.note, "marks": ", ".join(f"{mark:g}" for mark in point.marks)}
        return request(self.template, question=question_of(sample), answer=self._said(sample), **words)

    def _share(self, rubric: Sequence[Point], ratings: Sequence[Sequence[float | Failure]]) -> Score:
        """Of the trimmed means of all points, of the highest that there could be."""
        failed = next((one for some in ratings for one in some if isinstance(one, Failure)), None)
        if failed is not None:
            return Score.invalid(f"the judge gave no verdict: {failed.reason}")
        marks = [_trimmed([one for one in some if not isinstance(one, Failure)], self.trim) for some in ratings]
        return Score.of(sum(marks) / sum(max(point.marks) for point in rubric), points=marks)


@dataclass(frozen=True)
class Point:
    """What is looked for, a note on how, and the marks that there are."""

    text: str
    note: str
    marks: tuple[float, ...]

    def read(self, reply: str) -> float | None:
        """The mark of a reply that ends in "Score: 1"; None for none of the marks."""
        mark = said_mark(reply, "score", min(self.marks), max(self.marks))
        return mark if mark in self.marks else None


def rubric_of(value: Any) -> list[Point]:
    """The points of a column: a list of {`scoring_point` or `name`, `note`, `choices`}. Raises ValueError otherwise."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"is {type(value).__name__}, expected a list of points that is not empty")
    return [_point(number, point) for number, point in enumerate(value, 1)]


def _point(number: int, point: Any) -> Point:
    texts = [point.get(key) for key in ("scoring_point", "name")] if isinstance(point, Mapping) else []
    text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    if text is None:
        raise ValueError(f"has a point {number} without `scoring_point`")
    given = point.get("choices")
    marks = _MARKS if given is None else given
    whole = isinstance(marks, list | tuple) and all(isinstance(m, int | float) and math.isfinite(m) for m in marks)
    if not whole or len(set(marks)) < 2 or min(marks) < 0:
        raise ValueError(f"has a point {number} with choices={given!r:.40}, expected two marks or more, from 0 on")
    return Point(text.strip(), str(point.get("note") or "").strip(), tuple(sorted(map(float, marks))))


def _trimmed(values: Sequence[float], trim: int) -> float:
    """The mean without the `trim` lowest and highest."""
    kept = sorted(values)[trim : len(values) - trim]
    return sum(kept) / len(kept)
