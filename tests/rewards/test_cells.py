"""Rewards of grids: each cell on its own, a layout that is one, cells that are alike, and what none of them pays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mmrl.importing import import_file
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.share import share
from mmrl.types import Group, Prompt, Sample

grids = import_file(share("datasets") / "scenes" / "grids.py")
RECORDS = [json.loads(line) for line in (share("datasets") / "scenes" / "grids.jsonl").read_text().splitlines()]
PAIR = next(r for r in RECORDS if r["prompt"] == "a red circle left of a red square")
FOUR = next(r for r in RECORDS if r["prompt"] == "two red circles above two red circles")
FOLLOWS = {"reward": "composition.follows"}


def score(name: str, pictures: list, record: dict, options: dict | None = None, text: str | None = None) -> list:
    prompt = Prompt("p", text or record["prompt"], record)
    group = Group(prompt, 0, [Sample(prompt, i, picture) for i, picture in enumerate(pictures)])
    reward = load_reward(name, options or {})
    score_groups([group], [reward])
    return [sample.scores[reward.name] for sample in group.samples]


def drawn(record: dict, size: int = 80, seed: int = 0) -> Image.Image:
    return grids.draw(record, np.random.default_rng(seed), size)


def pasted(*cells: dict) -> Image.Image:
    """A grid of 1 x 2 of the left halves of pictures of these records."""
    whole = Image.new("RGB", (80, 80))
    for place, record in enumerate(cells):
        whole.paste(drawn(record).crop((0, 0, 40, 80)), (40 * place, 0))
    return whole


@pytest.mark.parametrize("size", [40, 80])
@pytest.mark.parametrize("name", ["cells.each", "cells.laid_out", "cells.same"])
def test_every_grid_as_it_is_drawn_earns_all(name, size):
    for seed, record in enumerate(RECORDS[::7]):
        [found] = score(name, [drawn(record, size, seed)], record, FOLLOWS if name == "cells.each" else {})
        assert found.details["grid"] == record["grid"]  # the report shows seams by it
        assert found.value >= (1 if name != "cells.same" else 0.9), record["prompt"]  # sides differ by a pixel or two


def record_of(shape: str, colour: str = "red") -> dict:
    return next(r for r in RECORDS if r["prompt"] == f"a {colour} {shape} left of a {colour} {shape}")


def test_each_is_the_mean_of_its_cells_or_the_least():
    # The second cell shows a circle where a square is asked for: of its four claims the first.
    picture = pasted(record_of("circle"), record_of("circle"))
    assert score("cells.each", [picture], PAIR, FOLLOWS)[0].value == pytest.approx((1 + 1 / 4) / 2)
    worst = score("cells.each", [picture], PAIR, {**FOLLOWS, "worst": True})[0]
    assert worst.value == pytest.approx(1 / 4)
    assert worst.details["cells"] == [1.0, 0.25]


def test_a_cell_is_asked_for_with_its_own_words_and_the_record_s_other_columns(tmp_path):
    (tmp_path / "told.py").write_text(
        "def words(samples):\n"
        "    assert all(s.artifact.size == (40, 80) for s in samples)\n"
        "    p = samples[0].prompt\n"
        "    assert 'grid' not in p.record and 'claims' not in p.record and p.record['prompt'] == p.text\n"
        "    return [len(p.text) + p.record['more']] * len(samples)\n"
    )
    record = {**PAIR, "claims": [], "more": 100}
    found = score("cells.each", [drawn(PAIR)] * 2, record, {"reward": f"{tmp_path}/told.py:words"})
    assert [s.details["cells"] for s in found] == [[100 + len("a red circle"), 100 + len("a red square")]] * 2


def test_a_cell_that_fails_makes_its_sample_invalid_alone(tmp_path):
    (tmp_path / "odd.py").write_text(
        "def dark(samples):\n    return [float('nan') if s.artifact.getpixel((0, 0))[0] < 9 else 1 for s in samples]\n"
    )
    half = drawn(PAIR)
    half.paste((0, 0, 0), (40, 0, 80, 80))
    found = score("cells.each", [half, drawn(PAIR)], PAIR, {"reward": f"{tmp_path}/odd.py:dark"})
    assert [s.status for s in found] == ["invalid", "ok"]
    assert "cell 2: " in found[0].reason


@pytest.mark.parametrize("name", ["cells.each", "cells.laid_out", "cells.same"])
def test_a_group_that_lost_members_scores_the_others(name):
    """A sample without a picture, and one whose grid does not divide it, are invalid; the rest is scored as alone."""
    options = FOLLOWS if name == "cells.each" else {}
    whole = drawn(FOUR)
    alone = score(name, [whole], FOUR, options)[0].value
    found = score(name, [None, whole, whole.crop((0, 0, 79, 80))], FOUR, options)
    assert [s.status for s in found] == ["invalid", "ok", "invalid"]
    assert found[1].value == alone
    assert "multiples of 2 and 2" in found[2].reason
    assert [s.status for s in score(name, [None, None], FOUR, options)] == ["invalid"] * 2


@pytest.mark.parametrize("name", ["cells.each", "cells.laid_out", "cells.same"])
def test_a_prompt_without_a_grid_is_told_before_anything_is_drawn(name):
    options = FOLLOWS if name == "cells.each" else {}
    reward = load_reward(name, options)
    for record, message in (
        ({}, "column `grid: \\[rows, columns\\]`"),
        ({"grid": [2]}, "two whole numbers"),
        ({"grid": [9, 9]}, "2 to 16 cells"),
    ):
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(reward.check_prompt(Prompt("p", "two red circles", record)))
    assert score(name, [drawn(PAIR)], {}, options, text="two red circles")[0].status == "na"
    other = load_reward(name, {**options, "grid": [2, 2]})
    assert "the option says 2 x 2" in other.check_prompt(Prompt("p", PAIR["prompt"], PAIR))
    assert reward.check_prompt(Prompt("p", PAIR["prompt"], PAIR)) is None


def test_each_names_a_prompt_whose_cells_have_no_words():
    reward = load_reward("cells.each", FOLLOWS)
    assert "3 texts for the 2 cells" in reward.check_prompt(Prompt("p", "", {"grid": [1, 2], "cells": ["a"] * 3}))


@pytest.mark.parametrize(
    ("left", "right", "by", "expected"),
    [
        (("circle", "red"), ("circle", "red"), ["colour", "shape"], 1.0),
        (("circle", "red"), ("square", "red"), ["colour", "shape"], 0.5),
        (("circle", "red"), ("square", "red"), ["colour"], 1.0),
        (("circle", "red"), ("circle", "blue"), ["colour", "shape"], 0.5),
        (("circle", "red"), ("square", "blue"), ["colour", "shape"], 0.0),
    ],
)
def test_cells_agree_in_what_is_asked_for(left, right, by, expected):
    record = {"prompt": "x", "grid": [1, 2]}
    picture = pasted(record_of(*left), record_of(*right))
    assert score("cells.same", [picture], record, {"by": by})[0].value == pytest.approx(expected)
    assert score("cells.same", [picture], {**record, "same": by})[0].value == pytest.approx(expected)


def square(picture: Image.Image, left: int, top: int, side: int, fill=(214, 48, 44)) -> None:
    picture.paste(fill, (left, top, left + side, top + side))


def test_size_is_the_smaller_side_over_the_larger_and_the_mean_is_over_every_two_cells():
    picture = Image.new("RGB", (80, 80), (246, 245, 240))
    for left, top, side in ((10, 10, 16), (50, 10, 16), (10, 50, 16), (50, 50, 8)):
        square(picture, left, top, side)
    # Boxes reach a pixel further on each side: 18 and 10. Three of the six pairs have the small one.
    found = score("cells.same", [picture], {"prompt": "x", "grid": [2, 2]}, {"by": ["size"]})[0]
    assert found.value == pytest.approx((3 * 1 + 3 * 10 / 18) / 6)
    assert len(found.details["found"]) == 4


def test_several_objects_to_a_cell_agree_by_their_number():
    picture = Image.new("RGB", (80, 40), (246, 245, 240))
    for left, top in ((4, 4), (22, 22), (58, 14)):
        square(picture, left, top, 12)
    assert score("cells.same", [picture], {"prompt": "x", "grid": [1, 2]}, {"by": ["colour"]})[0].value == 1 / 2


@pytest.mark.parametrize(("at", "expected"), [((14, 14), 0.25), ((34, 14), 0.0), ((34, 34), 0.0)])
def test_what_crosses_a_seam_is_no_layout(at, expected):
    picture = Image.new("RGB", (80, 80), (246, 245, 240))
    square(picture, *at, 12)
    assert score("cells.laid_out", [picture], {"prompt": "x", "grid": [2, 2]})[0].value == expected


def test_pictures_of_nothing_earn_nothing():
    """Blank, full of one colour, noise: cells without anything are not consistent with each other."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8))
    for picture in (Image.new("RGB", (80, 80), "white"), Image.new("RGB", (80, 80), (214, 48, 44)), noise):
        assert score("cells.same", [picture], FOUR)[0].value == 0
        assert score("cells.laid_out", [picture], FOUR)[0].value == 0
        assert score("cells.each", [picture], FOUR, FOLLOWS)[0].value == 0


def test_a_scene_that_is_no_grid_earns_less_than_one_that_is():
    """All objects in one cell: what the words ask for is there, but not where."""
    record = next(r for r in RECORDS if r["prompt"] == "two red squares above two red squares")
    picture = Image.new("RGB", (80, 80), (246, 245, 240))
    for left, top in ((4, 4), (22, 4), (4, 22), (22, 22)):
        square(picture, left, top, 12)
    assert score("cells.laid_out", [picture], record)[0].value == 0.25
    assert score("cells.same", [picture], record)[0].value == 0
    # Of one cell colour, shape and nothing else, of the others nothing.
    assert score("cells.each", [picture], record, FOLLOWS)[0].value == pytest.approx(3 / 4 / 4)


@pytest.mark.parametrize("by", [[], ["hue"], "colour", ["size", "size"]])
def test_traits_that_are_none_are_refused(by):
    with pytest.raises(ValueError, match="some of colour, shape, size"):
        load_reward("cells.same", {"by": by})
    if by != "colour":
        assert "column `same`" in load_reward("cells.same", {}).check_prompt(Prompt("p", "x", {**FOUR, "same": by}))
