"""PaCo-Reward (PaCo-RL): are the cells of a generated grid consistent with each other, as the odds of a model's Yes?

Every two cells are shown to the judge, a vision-language model that is served or local (option `judge` as in judge.py),
and it is asked for one token. What it never answered is left out, and a picture without any answer is invalid, where
the published code has 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from PIL import Image

from mmrl.rewarding.chat import Failure, Messages
from mmrl.rewarding.parts import JPEG, picture_part
from mmrl.types import Prompt, Sample, Score

from . import picture_templates as templates
from .judging import shown, template_of
from .odds import Odds, YesNo
from .towers import score_pictures

_GRID = re.compile(r"(\d+)\s*[x\u00d7\u2a09]\s*(\d+)")  # also with the two signs of multiplication
_PANEL = re.compile(r"[.\"]\s+[A-Z0-9\-\[\]]+:")  # where the words of one cell begin: ". [TOP-LEFT]:"
_MOST_CELLS = 16


class consistency:
    """The mean of p(Yes) / (p(Yes) + p(No)) over every two cells of the grid, 0 to 1.

    grid: [rows, columns]; null reads the prompt, as in "a 2x2 grid". by: "theme" asks one question for every two cells,
    about the prompt up to its first cell; "criteria" asks one for each of the record's `criteria`, {dimension: {name:
    text}}, and takes the mean in a dimension, then over dimensions. both_orders: also shows the two the other way
    around. spellings: counts " yes" and "YES" as well. judge, jpeg: as in unified_reward.py. template: a text or .txt
    file with $theme, or $criterion.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        grid: Sequence[int] | None = None,
        by: str = "theme",
        both_orders: bool = False,
        spellings: bool = False,
        template: str | None = None,
        jpeg: int | None = JPEG,
    ) -> None:
        if by not in ("theme", "criteria"):
            raise ValueError(f"by={by!r} must be theme or criteria")
        if grid is not None and (len(grid) != 2 or not 2 <= grid[0] * grid[1] <= _MOST_CELLS or min(grid) < 1):
            raise ValueError(f"grid={list(grid)}: two whole numbers, rows and columns, of 2 to {_MOST_CELLS} cells")
        if jpeg is not None and not 1 <= jpeg <= 100:
            raise ValueError(f"jpeg={jpeg} must be from 1 to 100, or null for PNG")
        self.grid, self.by, self.both_orders, self.jpeg = grid, by, both_orders, jpeg
        default, name = (templates.THEME, "theme") if by == "theme" else (templates.CRITERION, "criterion")
        self.template = template_of(template, default, {name}, needed=name)
        self.yes_no = YesNo(judge, spellings)
        self.groups_at_once = self.yes_no.judge.threads

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: a judge that is down is left alone for a while."""
        self.yes_no.judge.as_monitor()

    def __call__(self, samples: list[Sample]) -> list[Score]:
        prompt = samples[0].prompt
        if self.check_prompt(prompt) is not None:
            return [Score(None, self.check_prompt(prompt) or "", "na")] * len(samples)
        rows, columns = self._grid(prompt)
        questions = self._questions(prompt)

        def values(pictures: list[Image.Image], _: list[str]) -> list[Score]:
            asked = [self._asked(picture, rows, columns, questions) for picture in pictures]
            found = iter(self.yes_no.odds([one for of_picture in asked for one in of_picture]))
            return [self._score([next(found) for _ in of_picture], questions) for of_picture in asked]

        return score_pictures(samples, values)

    def check_prompt(self, prompt: Prompt) -> str | None:
        rows, columns = self._grid(prompt)
        if not 2 <= rows * columns <= _MOST_CELLS:
            return f"prompt {prompt.id!r} tells no grid of 2 to {_MOST_CELLS} cells, such as 2x2; or set `grid`"
        if not self._questions(prompt):
            return f"prompt {prompt.id!r} lacks `criteria`, {{dimension: {{name: text}}}}"
        return None

    def _grid(self, prompt: Prompt) -> tuple[int, int]:
        if self.grid is not None:
            return self.grid[0], self.grid[1]
        told = _GRID.search(prompt.text)
        return (int(told[1]), int(told[2])) if told else (1, 1)

    def _questions(self, prompt: Prompt) -> dict[str, list[str]]:
        """Dimension -> its questions; one of each where the theme is asked about."""
        if self.by == "theme":
            return {"theme": [_PANEL.split(prompt.text)[0]]}
        criteria = prompt.record.get("criteria")
        if not isinstance(criteria, Mapping) or not all(isinstance(texts, Mapping) for texts in criteria.values()):
            return {}
        told = {str(name): [str(text) for text in texts.values() if text] for name, texts in criteria.items()}
        return {name: texts for name, texts in told.items() if texts}

    def _asked(
        self, picture: Image.Image, rows: int, columns: int, questions: Mapping[str, Sequence[str]]
    ) -> list[Messages]:
        parts = [picture_part(cell, self.jpeg) for cell in cells(picture, rows, columns)]
        pairs = [pair for one, two in combinations(parts, 2) for pair in self._orders(one, two)]
        name = "theme" if self.by == "theme" else "criterion"
        texts = [text for of_dimension in questions.values() for text in of_dimension]
        return [shown(pair, self.template, **{name: text}) for text in texts for pair in pairs]

    def _orders(self, one: Any, two: Any) -> list[tuple[Any, Any]]:
        return [(one, two), (two, one)] if self.both_orders else [(one, two)]

    def _score(self, found: Sequence[Odds | Failure], questions: Mapping[str, Sequence[str]]) -> Score:
        """The mean over pairs, then over the questions of a dimension, then over dimensions."""
        if not found:
            return Score.invalid("the picture has fewer pixels than the grid has cells")
        per_question = len(found) // sum(map(len, questions.values()))
        answers, means = iter(found), {}
        for dimension, texts in questions.items():
            of_texts = [_mean([next(answers) for _ in range(per_question)]) for _ in texts]
            known = [value for value in of_texts if value is not None]
            if known:
                means[dimension] = sum(known) / len(known)
        failed = [odds for odds in found if isinstance(odds, Failure)]
        if not means:
            return Score.invalid(f"the judge gave no verdict: {failed[0].reason}")
        one_sided = sum(isinstance(odds, Odds) and bool(odds.missing) for odds in found)
        details: dict[str, Any] = {"asked": len(found), "failed": len(failed), "one_sided": one_sided}
        details |= {"first_failure": failed[0].reason} if failed else {}
        details |= means if self.by == "criteria" else {}
        return Score.of(sum(means.values()) / len(means), **details)


def cells(picture: Image.Image, rows: int, columns: int) -> list[Image.Image]:
    """The cells of a grid, line by line; what does not divide is left out at the right and at the bottom.

    None of a picture that is smaller than its grid.
    """
    width, height = picture.width // columns, picture.height // rows
    if not (width and height):
        return []
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return [picture.crop((left, top, left + width, top + height)) for left, top in corners]


def _mean(found: Sequence[Odds | Failure]) -> float | None:
    known = [odds.yes for odds in found if isinstance(odds, Odds)]
    return sum(known) / len(known) if known else None
