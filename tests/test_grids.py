"""Grids of a record or of a prompt's words, the cells of a picture, and what is no grid."""

import pytest
from every import every
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmrl.grids import Grid, as_grid, cut, grid_of, theme_of, words_of_cells

T2IS = 'Two panels, a 1x2 grid of a fox. Ink on paper. [LEFT]:The fox sleeps. "Far away" [RIGHT]:The fox runs.'


@every(
    ("text", "found"),
    [
        ("a 2x2 grid", (2, 2)),
        ("THREE-PANEL images with a 1x3 grid layout of a fox", (1, 3)),
        ("3 × 2 cats", (3, 2)),
        ("2⨉1", (2, 1)),
        ("a two-by-two grid of cats", (2, 2)),
        ("a 2 by 3 layout", (2, 3)),
        ("a grid of 2 rows and 4 columns", (2, 4)),
        ("three rows of two columns", (3, 2)),
        ("a 1024x1024 picture of a 2x2 grid", (2, 2)),
        ("16x9, two rows and three columns", (2, 3)),
        ("a 4x4 truck from four sides, a 2x2 grid", (2, 2)),
        ("A 2X2 GRID", (2, 2)),
        ("２ｘ３ の格子", (2, 3)),
        ("a grid of 2 rows, 3 columns", (2, 3)),
        ("two rows, and four columns", (2, 4)),
        ("two by two they came", None),  # of the ark
        ("a 1x1 grid", None),
        ("a 1024x1024 picture", None),
        ("two red circles above two red circles", None),
    ],
)
def test_words_that_tell_a_grid(text, found):
    grid = grid_of({}, text)
    assert (None if grid is None else (grid.rows, grid.columns)) == found


def test_the_record_goes_before_the_words():
    assert grid_of({"grid": [1, 4]}, "a 2x2 grid") == Grid(1, 4)
    assert grid_of({"grid": None}, "a 2x2 grid") == Grid(2, 2)


@every("wrong", [2, "2x2", [2], [2, 2, 2], [2.0, 2], [True, 2], [0, 2], [1, 1], [5, 4], [], {}])
def test_a_column_that_holds_no_grid_is_refused(wrong):
    with pytest.raises(ValueError, match="2 to 16 cells"):
        as_grid(wrong)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_cells_put_side_by_side_are_the_picture(rows, columns, high, wide):
    if rows * columns < 2:
        return
    picture = Image.effect_noise((columns * wide, rows * high), 90)
    cells = cut(picture, Grid(rows, columns))
    assert len(cells) == rows * columns
    again = Image.new(picture.mode, picture.size)
    for place, cell in enumerate(cells):
        assert cell.size == (wide, high)
        again.paste(cell, (place % columns * wide, place // columns * high))
    assert again.tobytes() == picture.tobytes()


@every(
    ("size", "grid"), [((41, 40), (2, 2)), ((40, 41), (2, 2)), ((40, 40), (3, 3)), ((1, 1), (2, 2)), ((2, 1), (2, 1))]
)
def test_a_grid_that_does_not_divide_the_picture_says_what_to_draw(size, grid):
    with pytest.raises(ValueError, match=f"does not divide .* multiples of {grid[0]} and {grid[1]}"):
        cut(Image.new("RGB", size), Grid(*grid))


def test_the_words_of_cells_are_the_column_or_the_parts_that_the_prompt_names():
    two = Grid(1, 2)
    assert words_of_cells({}, T2IS, two) == ['The fox sleeps. "Far away"', "The fox runs."]
    assert words_of_cells({"cells": ["a", "b"]}, T2IS, two) == ["a", "b"]
    assert theme_of(T2IS) == "Two panels, a 1x2 grid of a fox. Ink on paper"


@every(
    ("record", "text", "message"),
    [
        ({}, "a fox", "0 texts for the 2 cells"),
        ({"cells": ["a", "b", "c"]}, T2IS, "3 texts for the 2 cells"),
        ({"cells": "ab"}, T2IS, "list of texts"),
        ({"cells": ["a", ""]}, T2IS, "list of texts"),
        ({"cells": ["a", 1]}, T2IS, "list of texts"),
    ],
)
def test_cells_without_words_are_named(record, text, message):
    with pytest.raises(ValueError, match=message):
        words_of_cells(record, text, Grid(1, 2))
