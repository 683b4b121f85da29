"""PaCo-Reward (PaCo-RL): are the cells of a generated grid consistent with each other, as the odds of a model's Yes?

Every two cells are shown to the judge, a vision-language model that is served or local (option `judge` as in judge.py),
and it is asked for one token. What it never answered is left out, and a picture without any answer is invalid, where
the published code has 0. `layout` and `edit` ask the same judge of a whole picture, and of an edited one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from PIL import Image

from mmrl.grids import Grid, cut, theme_of
from mmrl.media import IMAGE
from mmrl.pictures import PictureError, open_image
from mmrl.rewarding.chat import Failure, Messages
from mmrl.rewarding.parts import JPEG, picture_part
from mmrl.types import Prompt, Sample, Score

from . import picture_templates as templates
from .grid_cells import Grids, with_grid
from .judging import shown, template_of
from .odds import Odds, YesNo
from .towers import MAX_PIXELS, score_pictures


class _Asking:
    """A judge that is asked yes or no about pictures. jpeg: quality as which they are sent; None: as PNG."""

    def __init__(self, judge: Mapping[str, Any], spellings: bool, jpeg: int | None) -> None:
        if jpeg is not None and not 1 <= jpeg <= 100:
            raise ValueError(f"jpeg={jpeg} must be from 1 to 100, or null for PNG")
        self.jpeg = jpeg
        self.yes_no = YesNo(judge, spellings)
        self.groups_at_once = self.yes_no.judge.threads

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: a judge that is down is left alone for a while."""
        self.yes_no.judge.as_monitor()

    def part(self, picture: Image.Image) -> Any:
        return picture_part(picture, self.jpeg)


class consistency(_Asking):
    """The mean of p(Yes) / (p(Yes) + p(No)) over every two cells of the grid, 0 to 1.

    grid: [rows, columns]; null reads the record's column `grid`, then the prompt, as in "a 2x2 grid". by: "theme" asks
    one question for every two cells, about the prompt up to its first cell; "criteria" asks one for each of the
    record's `criteria`, {dimension: {name: text}}, and takes the mean in a dimension, then over dimensions.
    both_orders: also shows the two the other way around. spellings: counts " yes" and "YES" as well. judge, jpeg: as in
    unified_reward.py. template: a text or .txt file with $theme, or $criterion.
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
        super().__init__(judge, spellings, jpeg)
        self.grids, self.by, self.both_orders = Grids(grid), by, both_orders
        default, name = (templates.THEME, "theme") if by == "theme" else (templates.CRITERION, "criterion")
        self.template = template_of(template, default, {name}, needed=name)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        prompt = samples[0].prompt
        problem = self.check_prompt(prompt)
        if problem is not None:
            return [Score(None, problem, "na")] * len(samples)
        grid, questions = self.grids.of(prompt), self._questions(prompt)

        def values(pictures: list[Image.Image], _: list[str]) -> list[Score]:
            asked = [self._asked(picture, grid, questions) for picture in pictures]
            found = iter(self.yes_no.odds([one for of_picture in asked for one in of_picture]))
            return [
                with_grid(self._score([next(found) for _ in of_picture], questions), grid)
                if of_picture
                else Score.invalid(grid.misfit(picture.height, picture.width) or "no cells")
                for picture, of_picture in zip(pictures, asked)
            ]

        return score_pictures(samples, values)

    def check_prompt(self, prompt: Prompt) -> str | None:
        problem = self.grids.problem(prompt)
        if problem is None and not self._questions(prompt):
            return f"prompt {prompt.id!r} lacks `criteria`, {{dimension: {{name: text}}}}"
        return problem

    def _questions(self, prompt: Prompt) -> dict[str, list[str]]:
        """Dimension -> its questions; one of each where the theme is asked about."""
        if self.by == "theme":
            return {"theme": [theme_of(prompt.text)]}
        criteria = prompt.record.get("criteria")
        if not isinstance(criteria, Mapping) or not all(isinstance(texts, Mapping) for texts in criteria.values()):
            return {}
        told = {str(name): [str(text) for text in texts.values() if text] for name, texts in criteria.items()}
        return {name: texts for name, texts in told.items() if texts}

    def _asked(self, picture: Image.Image, grid: Grid, questions: Mapping[str, Sequence[str]]) -> list[Messages]:
        """All questions about a picture; none about one that the grid does not divide."""
        if grid.misfit(picture.height, picture.width) is not None:
            return []
        parts = [self.part(cell) for cell in cut(picture, grid)]
        pairs = [pair for one, two in combinations(parts, 2) for pair in self._orders(one, two)]
        name = "theme" if self.by == "theme" else "criterion"
        texts = [text for of_dimension in questions.values() for text in of_dimension]
        return [shown(pair, self.template, **{name: text}) for text in texts for pair in pairs]

    def _orders(self, one: Any, two: Any) -> list[tuple[Any, Any]]:
        return [(one, two), (two, one)] if self.both_orders else [(one, two)]

    def _score(self, found: Sequence[Odds | Failure], questions: Mapping[str, Sequence[str]]) -> Score:
        """The mean over pairs, then over the questions of a dimension, then over dimensions."""
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


class layout(_Asking):
    """p(Yes) / (p(Yes) + p(No)) that the picture is laid out as the prompt's grid; `hard` makes it 1 or 0, as released.

    grid: as in `consistency`. judge, spellings, jpeg: the same. template: a text or .txt file with $rows and $columns.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        grid: Sequence[int] | None = None,
        hard: bool = False,
        spellings: bool = False,
        template: str | None = None,
        jpeg: int | None = JPEG,
    ) -> None:
        super().__init__(judge, spellings, jpeg)
        self.grids, self.hard = Grids(grid), hard
        self.template = template_of(template, templates.LAYOUT, {"rows", "columns"}, needed="rows")

    def check_prompt(self, prompt: Prompt) -> str | None:
        return self.grids.problem(prompt)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        problem = self.check_prompt(samples[0].prompt)
        if problem is not None:
            return [Score(None, problem, "na")] * len(samples)
        grid = self.grids.of(samples[0].prompt)
        words = {"rows": str(grid.rows), "columns": str(grid.columns)}

        def values(pictures: list[Image.Image], _: list[str]) -> list[Score]:
            found = self.yes_no.odds([shown((self.part(one),), self.template, **words) for one in pictures])
            return [with_grid(_answer(one, self.hard), grid) for one in found]

        return score_pictures(samples, values)


class edit(_Asking):
    """sqrt(consistent * followed) of an edited picture: PaCo-RL's reward of editing, each the odds of a Yes.

    The judge is shown the record's first picture (column `images`) and the edited one, and is asked whether what the
    instruction leaves alone stayed as it was, and whether the instruction was followed. judge, spellings, jpeg: as in
    `consistency`. A sample of which one of the two is not answered is invalid.
    """

    def __init__(self, judge: Mapping[str, Any], spellings: bool = False, jpeg: int | None = JPEG) -> None:
        super().__init__(judge, spellings, jpeg)
        self.kept, self.followed = (
            template_of(None, text, {"instruction"}, "instruction") for text in (templates.KEPT, templates.FOLLOWED)
        )

    def check_prompt(self, prompt: Prompt) -> str | None:
        if prompt.record.get("images"):
            return None
        return f"prompt {prompt.id!r} lacks `images`, the picture that is edited"

    def __call__(self, samples: list[Sample]) -> list[Score]:
        prompt = samples[0].prompt
        problem = self.check_prompt(prompt)
        if problem is not None:
            return [Score(None, problem, "na")] * len(samples)
        images = prompt.record["images"]
        try:
            first = images[0] if isinstance(images, list | tuple) else images
            source = self.part(open_image(first, prompt.root, MAX_PIXELS))
        except PictureError as error:
            return [Score.invalid(str(error))] * len(samples)
        instruction = prompt.text.replace(IMAGE, "").strip()

        def values(pictures: list[Image.Image], _: list[str]) -> list[Score]:
            pairs = [(source, self.part(one)) for one in pictures]
            questions = (self.kept, self.followed)
            asked = [shown(pair, text, instruction=instruction) for pair in pairs for text in questions]
            found = iter(self.yes_no.odds(asked))
            return [_edited(next(found), next(found)) for _ in pictures]

        return score_pictures(samples, values)


def _edited(kept: Odds | Failure, followed: Odds | Failure) -> Score:
    for answer in (kept, followed):
        if isinstance(answer, Failure):
            return Score.invalid(f"the judge gave no verdict: {answer.reason}")
    assert isinstance(kept, Odds)
    assert isinstance(followed, Odds)
    return Score.of(math.sqrt(kept.yes * followed.yes), consistent=kept.yes, followed=followed.yes)


def _answer(found: Odds | Failure, hard: bool) -> Score:
    if isinstance(found, Failure):
        return Score.invalid(f"the judge gave no verdict: {found.reason}")
    return Score.of(float(found.yes > 0.5) if hard else found.yes, odds=found.yes)


def _mean(found: Sequence[Odds | Failure]) -> float | None:
    known = [odds.yes for odds in found if isinstance(odds, Odds)]
    return sum(known) / len(known) if known else None
