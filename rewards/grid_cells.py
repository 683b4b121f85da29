"""What rewards of grids share: which grid a prompt has, and a picture's cells as samples of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from mmrl.grids import Grid, as_grid, cut, grid_of, words_of_cells
from mmrl.pictures import PictureError
from mmrl.types import Prompt, Sample, Score

from .towers import rgb

# Columns that are about the whole picture, which no cell's record has.
WHOLE = ("grid", "cells", "claims", "relation", "criteria", "same")


class Grids:
    """The grid of each prompt: that of the option, else the record's column `grid`, else what its words tell."""

    def __init__(self, option: Sequence[int] | None = None) -> None:
        self.option = None if option is None else as_grid(option)

    def problem(self, prompt: Prompt) -> str | None:
        """Why a prompt has none, and what to do; or None."""
        try:
            told = grid_of(prompt.record, prompt.text)
        except ValueError as error:
            return f"prompt {prompt.id!r}: {error}"
        if self.option is None:
            fix = "give it a column `grid: [rows, columns]`, words such as a 2x2 grid, or the reward the option `grid`"
            return None if told else f"prompt {prompt.id!r} tells no grid of 2 to 16 cells; {fix}"
        if prompt.record.get("grid") is not None and told != self.option:
            return f"prompt {prompt.id!r} has a grid of {told}, the option says {self.option}; leave one of them out"
        return None

    def of(self, prompt: Prompt) -> Grid:
        """Of a prompt without a problem."""
        found = self.option or grid_of(prompt.record, prompt.text)
        assert found is not None, "problem() is asked first"
        return found


def cells_of(drawn: Sequence[Sample], grid: Grid) -> list[list[Image.Image] | Score]:
    """The cells of each sample's picture, line by line; or the invalid score of a sample that has none."""
    found: list[list[Image.Image] | Score] = []
    for sample in drawn:
        try:
            found.append(cut(rgb(sample.artifact), grid))
        except (PictureError, ValueError) as error:
            found.append(Score.invalid(str(error)))
    return found


def with_grid(score: Score, grid: Grid) -> Score:
    """The score with the grid among its details, for whoever shows the picture."""
    return replace(score, details={**score.details, "grid": [grid.rows, grid.columns]})


def cell_prompts(prompt: Prompt, grid: Grid) -> list[Prompt]:
    """A prompt for each cell, with its own words and the record's other columns. Raises ValueError without words."""
    record = {name: value for name, value in prompt.record.items() if name not in WHOLE}
    words = words_of_cells(prompt.record, prompt.text, grid)
    return [
        replace(prompt, id=f"{prompt.id}\x1f{place}", text=text, record={**record, "prompt": text})
        for place, text in enumerate(words)
    ]
