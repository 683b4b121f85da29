"""Grids without a judge: is the picture laid out as one, does each cell show its own, are the cells alike?

`each` cuts the picture and asks any reward about its cells. `laid_out` and `same` see composed scenes in the pixels
(composition.detect): what a judge is asked about photographs (paco.layout, paco.consistency) is checked there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from PIL import Image

from mmrl.grids import Grid
from mmrl.rewarding import group_reward
from mmrl.types import Group, Prompt, Sample, Score

from .compose import Part, Spec
from .composition import UNKNOWN, Found, detect
from .grid_cells import Grids, cell_prompts, cells_of, with_grid
from .towers import rgb

TRAITS = ("colour", "shape", "size")


@group_reward
class each:
    """A reward of each cell with its own words, and the mean of them; `worst` takes the least.

    reward: as a config has it, {name, options} or a name: clip.score is PaCo's subfig_clipT. The words of a cell are
    those of the record's column `cells`, or of a prompt that names them (". [TOP-LEFT]: ..."). grid: [rows, columns];
    null reads the record's column `grid`, then the prompt, as in "a 2x2 grid". A cell that the reward fails on makes
    the sample invalid; one to which it does not apply is left out.
    """

    def __init__(self, reward: Spec, grid: Sequence[int] | None = None, worst: bool = False) -> None:
        self.part, self.grids, self.worst = Part(reward), Grids(grid), worst
        self.groups_at_once = self.part.reward.at_once

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: so is the one inside."""
        self.part.reward.as_monitor()

    def check_prompt(self, prompt: Prompt) -> str | None:
        problem = self.grids.problem(prompt)
        if problem is not None:
            return problem
        try:
            prompts = cell_prompts(prompt, self.grids.of(prompt))
        except ValueError as error:
            return f"prompt {prompt.id!r}: {error}"
        return next((problem for one in prompts if (problem := self.part.problem(one))), None)

    def __call__(self, group: Group) -> list[Score]:
        problem = self.check_prompt(group.prompt)
        if problem is not None:
            return [Score(None, problem, "na")] * len(group.samples)
        grid = self.grids.of(group.prompt)
        scores: dict[int, Score] = {}
        pictures: dict[int, list[Image.Image]] = {}
        for place, cells in enumerate(cells_of(group.samples, grid)):
            if isinstance(cells, Score):
                scores[place] = cells
            else:
                pictures[place] = cells
        of_cells = [
            self._of_cell(prompt, group, {place: cells[number] for place, cells in pictures.items()})
            for number, prompt in enumerate(cell_prompts(group.prompt, grid))
        ]
        scores |= {place: with_grid(self._score([one[place] for one in of_cells]), grid) for place in pictures}
        return [scores[place] for place in range(len(group.samples))]

    def _of_cell(self, prompt: Prompt, group: Group, pictures: Mapping[int, Image.Image]) -> dict[int, Score]:
        """The scores of one cell of the samples at these places."""
        if not pictures:
            return {}
        shown = [replace(group.samples[place], prompt=prompt, artifact=cell) for place, cell in pictures.items()]
        return dict(zip(pictures, self.part.scores(Group(prompt, group.index, shown))))

    def _score(self, found: Sequence[Score]) -> Score:
        for number, score in enumerate(found, start=1):
            if score.status == "invalid":
                return Score.invalid(f"cell {number}: {score.reason}")
        values = [score.value for score in found if score.value is not None]
        if not values:
            return Score(None, found[0].reason, "na")
        value = min(values) if self.worst else sum(values) / len(values)
        return Score.of(value, cells=[score.value for score in found])


class laid_out:
    """Share of the grid's cells that hold an object whole, and nothing that reaches over their borders.

    For composed scenes, whose background is one colour: what crosses a seam is no grid. grid: as in `each`.
    """

    def __init__(self, grid: Sequence[int] | None = None) -> None:
        self.grids = Grids(grid)

    def check_prompt(self, prompt: Prompt) -> str | None:
        return self.grids.problem(prompt)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        def score(sample: Sample, _: list[Image.Image]) -> Score:
            return _laid_out(rgb(sample.artifact), self.grids.of(sample.prompt))

        return _scored(self, samples, score)


class same:
    """How alike the cells' objects are, 0 to 1: the mean over every two cells, and over the traits, of their agreement.

    by: the traits: colour and shape (how many of the two cells' objects have an equal one in the other, of those in the
    larger cell) and size (the smaller mean side over the larger). A record's column `same` names its own, so that a
    circle beside a square has to agree in colour alone. A cell that shows nothing that can be named agrees with none.
    grid: as in `each`. The verifiable twin of paco.consistency, for composed scenes.
    """

    def __init__(self, grid: Sequence[int] | None = None, by: Sequence[str] = TRAITS) -> None:
        self.grids, self.by = Grids(grid), _traits(by, "by")

    def check_prompt(self, prompt: Prompt) -> str | None:
        try:
            self._by(prompt)
        except ValueError as error:
            return f"prompt {prompt.id!r}: {error}"
        return self.grids.problem(prompt)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return _scored(self, samples, lambda sample, cells: self._alike(cells, self._by(sample.prompt)))

    def _by(self, prompt: Prompt) -> tuple[str, ...]:
        own = prompt.record.get("same")
        return self.by if own is None else _traits(own, "column `same`")

    def _alike(self, cells: Sequence[Image.Image], by: Sequence[str]) -> Score:
        shown = [_named(cell) for cell in cells]
        pairs = list(combinations(shown, 2))
        of_trait = {trait: sum(_agreement(a, b, trait) for a, b in pairs) / len(pairs) for trait in by}
        found = [", ".join(f"{one.colour} {one.shape}" for one in cell) for cell in shown]
        return Score.of(sum(of_trait.values()) / len(by), found=found, **of_trait)


def _scored(
    reward: laid_out | same, samples: list[Sample], score: Callable[[Sample, list[Image.Image]], Score]
) -> list[Score]:
    """score(sample, its cells) of each sample that has cells."""
    problem = reward.check_prompt(samples[0].prompt)
    if problem is not None:
        return [Score(None, problem, "na")] * len(samples)
    grid = reward.grids.of(samples[0].prompt)
    found = zip(samples, cells_of(samples, grid))
    return [cells if isinstance(cells, Score) else with_grid(score(sample, cells), grid) for sample, cells in found]


def _traits(named: Any, where: str) -> tuple[str, ...]:
    if not isinstance(named, list | tuple) or not named or set(named) - set(TRAITS) or len(set(named)) < len(named):
        raise ValueError(f"{where}={named!r:.80} must name some of {', '.join(TRAITS)}, each once")
    return tuple(named)


def _named(cell: Image.Image) -> list[Found]:
    return [one for one in detect(cell) if one.colour != UNKNOWN]


def _agreement(one: Sequence[Found], other: Sequence[Found], trait: str) -> float:
    if not one or not other:
        return 0.0
    if trait == "size":
        sides = [sum(map(_side, cell)) / len(cell) for cell in (one, other)]
        return min(sides) / max(sides)
    counts = [Counter(getattr(found, trait) for found in cell) for cell in (one, other)]
    return (counts[0] & counts[1]).total() / max(counts[0].total(), counts[1].total())


def _side(found: Found) -> float:
    """The longer side of its box, which circles, squares and triangles of one size have in common, more or less."""
    left, top, right, bottom = found.box
    return max(right - left, bottom - top)


def _laid_out(picture: Image.Image, grid: Grid) -> Score:
    width, height = picture.width // grid.columns, picture.height // grid.rows
    holds, crossed = set(), set()
    for found in detect(picture):
        # The box goes a pixel beyond what is drawn, for the sake of soft edges.
        left, top, right, bottom = found.box[0] + 1, found.box[1] + 1, found.box[2] - 1, found.box[3] - 1
        columns = range(left // width, max(left, right - 1) // width + 1)
        rows = range(top // height, max(top, bottom - 1) // height + 1)
        touched = {(row, column) for row in rows for column in columns}
        if len(touched) > 1:
            crossed |= touched
        elif found.colour != UNKNOWN:
            holds |= touched
    return Score.of(len(holds - crossed) / grid.cells, crossed=len(crossed))
