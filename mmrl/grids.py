"""Pictures made of cells: the grid that a record or its words ask for, the cells of a picture, the words of each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

MOST_CELLS = 16

_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
_NUMBER = rf"(\d+|{'|'.join(_NUMBERS)})"
_BY = r"(\d+)\s*[x\u00d7\u2a09]\s*(\d+)"
_THING = r"[\s-](?:grid|layout|panel)"
# The surest first: what is said of a grid, then a bare "2x2", also with the two signs of multiplication. That may be a
# truck of four wheels, so it counts where nothing surer is said.
_WORDINGS = (
    re.compile(_BY + _THING, re.IGNORECASE),
    re.compile(rf"\b{_NUMBER}[\s-]by[\s-]{_NUMBER}{_THING}", re.IGNORECASE),
    re.compile(rf"\b{_NUMBER}[\s-]rows?\s*(?:,|,?\s(?:and|of|by|x))\s*{_NUMBER}[\s-]columns?\b", re.IGNORECASE),
    re.compile(_BY, re.IGNORECASE),
)
# Where the words of one cell begin: ". [TOP-LEFT]:".
_PANEL = re.compile(r"(?<=[.\"])\s+[A-Z0-9\-\[\]]+:")


@dataclass(frozen=True)
class Grid:
    """Rows and columns of a picture; a picture of one cell is no grid."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1 or not 2 <= self.cells <= MOST_CELLS:
            raise ValueError(f"a grid of {self} has from 2 to {MOST_CELLS} cells")

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} (rows x columns)"

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    def misfit(self, height: int, width: int) -> str | None:
        """Why it does not divide a picture of these pixels, or None."""
        if height % self.rows == 0 and width % self.columns == 0:
            return None
        return (
            f"a grid of {self} does not divide a picture {height} high and {width} wide; draw one whose sides are "
            f"multiples of {self.rows} and {self.columns}"
        )


def as_grid(value: Any) -> Grid:
    """[rows, columns] as a Grid. Raises ValueError for what is no such pair, and for a single cell or too many."""
    numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if len(numbers) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise ValueError(
            f"grid {value!r:.60} must be two whole numbers, rows and columns, of 2 to {MOST_CELLS} cells, as in [2, 2]"
        )
    return Grid(*numbers)


def grid_of(record: Mapping[str, Any], text: str) -> Grid | None:
    """The record's column `grid`, else what the text says of one ("a 2x2 grid"); None without.

    Numbers that no grid has, as of "a 1024x1024 picture", are passed over. Raises ValueError for a column that holds no
    grid.
    """
    if record.get("grid") is not None:
        return as_grid(record["grid"])
    text = unicodedata.normalize("NFKC", text)  # digits and letters of full width
    for told in (told for wording in _WORDINGS for told in wording.finditer(text)):
        rows, columns = (int(_NUMBERS.get(number.lower(), number)) for number in told.groups())
        if 2 <= rows * columns <= MOST_CELLS:
            return Grid(rows, columns)
    return None


def theme_of(text: str) -> str:
    """What a prompt says of all its cells: its words before those of the first."""
    return _PANEL.split(text)[0].rstrip(".")


def words_of_cells(record: Mapping[str, Any], text: str, grid: Grid) -> list[str]:
    """What each cell shows, line by line: the record's column `cells`, else the parts of a prompt that names them.

    Parts begin with ". [TOP-LEFT]:", as in T2IS. Raises ValueError, with what is wrong, where there is not one for
    each cell.
    """
    told = record.get("cells")
    if told is None:
        told = [part.strip() for part in _PANEL.split(text)[1:]]
    if not isinstance(told, list | tuple) or not all(isinstance(one, str) and one for one in told):
        raise ValueError("column `cells` must be a list of texts, one for each cell")
    if len(told) != grid.cells:
        raise ValueError(
            f"{len(told)} texts for the {grid.cells} cells of {grid}: give a column `cells`, or begin the words of one "
            'with ". [TOP-LEFT]:" and the like'
        )
    return list(told)


def cut(picture: Image.Image, grid: Grid) -> list[Image.Image]:
    """The cells of a picture, line by line, all of one size. Raises ValueError where the grid does not divide it."""
    misfit = grid.misfit(picture.height, picture.width)
    if misfit is not None:
        raise ValueError(misfit)
    width, height = picture.width // grid.columns, picture.height // grid.rows
    corners = [(column * width, row * height) for row in range(grid.rows) for column in range(grid.columns)]
    return [picture.crop((left, top, left + width, top + height)) for left, top in corners]
