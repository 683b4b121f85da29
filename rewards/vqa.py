"""Yes/no questions about a picture, weighted: VQAScore with one of them, VisionReward with thirty.

The judge is a vision-language model, served or local (option `judge` as in judge.py), that is asked for one token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from PIL import Image

from mmrl.rewarding.chat import Failure
from mmrl.rewarding.parts import JPEG, picture_part
from mmrl.types import Sample, Score

from .judging import shown, template_of
from .odds import Odds, YesNo
from .towers import score_pictures

FITS = 'Does this picture show "$caption"? Answer Yes or No.'
_KEYS = {"ask", "weight", "needs"}


class score:
    """intercept + the sum of weight * answer over the questions, where an answer is p(Yes), or with `signs` 1 or -1.

    questions: {ask: text or .txt file, may have $caption; weight: 1 by default; needs: place, from 0, of an earlier
    question} each. One whose `needs` was answered No counts 0, as VisionReward's about hands where there are none. By
    default one question, whether the picture shows the prompt: VQAScore. judge, jpeg: as in unified_reward.py.
    spellings: as in paco.py. A question without an answer makes the sample invalid.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        questions: Sequence[Mapping[str, Any]] = ({"ask": FITS},),
        signs: bool = False,
        intercept: float = 0.0,
        spellings: bool = False,
        jpeg: int | None = JPEG,
    ) -> None:
        if not questions:
            raise ValueError("questions is empty; give {ask: text} each")
        if jpeg is not None and not 1 <= jpeg <= 100:
            raise ValueError(f"jpeg={jpeg} must be from 1 to 100, or null for PNG")
        self.questions = [_question(question, place) for place, question in enumerate(questions)]
        self.signs, self.intercept, self.jpeg = signs, intercept, jpeg
        self.yes_no = YesNo(judge, spellings)
        self.groups_at_once = self.yes_no.judge.threads

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: a judge that is down is left alone for a while."""
        self.yes_no.judge.as_monitor()

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return score_pictures(samples, self._values)

    def _values(self, pictures: list[Image.Image], texts: list[str]) -> list[Score]:
        parts = [picture_part(picture, self.jpeg) for picture in pictures]
        asked = [
            shown([part], ask, **({"caption": text} if "caption" in ask.get_identifiers() else {}))
            for part, text in zip(parts, texts)
            for ask, _, _ in self.questions
        ]
        found, count = self.yes_no.odds(asked), len(self.questions)
        return [self._score(found[start : start + count]) for start in range(0, len(found), count)]

    def _score(self, found: Sequence[Odds | Failure]) -> Score:
        total, answers = self.intercept, []
        for place, (odds, (_, weight, needs)) in enumerate(zip(found, self.questions)):
            if isinstance(odds, Failure):
                return Score.invalid(f"the judge gave no verdict on question {place}: {odds.reason}")
            value = odds.yes if not self.signs else 1.0 if odds.yes > 0.5 else -1.0
            answers.append(odds.yes)
            if needs is None or answers[needs] > 0.5:
                total += weight * value
        return Score.of(total, answers=answers)


def _question(question: Mapping[str, Any], place: int) -> tuple[Template, float, int | None]:
    """(words, weight, place of the question that it needs)"""
    if not isinstance(question, Mapping) or "ask" not in question or set(question) - _KEYS:
        raise ValueError(f"questions[{place}]: expected {{ask, weight, needs}}, of which `ask` must be there")
    weight, needs = question.get("weight", 1.0), question.get("needs")
    if not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"questions[{place}]: weight={weight!r} is no number")
    if needs is not None and not (isinstance(needs, int) and 0 <= needs < place):
        raise ValueError(f"questions[{place}]: needs={needs!r} must be the place of an earlier question")
    return template_of(question["ask"], "", {"caption"}, needed=None), float(weight), needs
