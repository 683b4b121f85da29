"""The generator of parts: the same for a seed, splits that share nothing, programs that are what the numbers say."""

from __future__ import annotations

import ast
import json
import math
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.importing import import_file

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "parts"
parts = import_file(FOLDER / "parts.py")
families = parts.families
FAMILIES, Slips = families.FAMILIES, families.Slips
SPLITS = [(split, name) for split in parts.SPLITS for name in (parts.UNSEEN if split == "unseen" else parts.SEEN)]


def test_there_are_families_to_choose_from():
    assert len(FAMILIES) >= 8
    assert not set(parts.SEEN) & set(parts.UNSEEN) and {*parts.SEEN, *parts.UNSEEN} == set(FAMILIES)


@pytest.mark.parametrize(("split", "family"), SPLITS)
def test_the_same_index_is_the_same_part_and_another_is_not(split, family):
    made = [parts.program(i, 3, split, [family], slips=0.5) for i in range(40)]
    assert made == [parts.program(i, 3, split, [family], slips=0.5) for i in range(40)]
    assert len({record["description"] for record in made}) > 35
    assert parts.part(5, 4, split, [family])["numbers"] != made[5]["numbers"]
    assert {record["family"] for record in made} == {family}


def test_no_part_is_in_two_splits():
    found = {
        split: {parts.part(i, s, split)["description"] for i in range(600) for s in (0, 1)} for split in parts.SPLITS
    }
    assert all(len(some) > 500 for some in found.values())
    assert not found["train"] & found["heldout"]
    assert not {d.split("(")[0] for d in found["unseen"]} & {d.split("(")[0] for d in found["train"] | found["heldout"]}


@settings(max_examples=200, deadline=None)
@given(index=st.integers(0, 10**6), split=st.sampled_from(parts.SPLITS), seed=st.integers(0, 99), slips=st.booleans())
def test_words_and_program_have_the_numbers_of_the_part_and_no_others(index, split, seed, slips):
    """Constants that no part has: 0, 360 and 6 of a hexagon, 2 of a half, and minus."""
    record = parts.program(index, seed, split, slips=float(slips))
    numbers = sorted(record["numbers"].values())
    asked, said, where = record["prompt"].partition(" It stands on the plane z = 0, ")
    assert said and where.startswith("centred on the z axis") and sorted(map(int, re.findall(r"\d+", asked))) == numbers
    for code in (record["code"], record["completion"]):
        constants = {n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant) and type(n.value) is int}
        assert set(numbers) <= constants <= {*numbers, 0, 2, 6, 360}
    assert record["gt"]["code"] == record["code"] and record["unit"] == "mm"
    assert (record["completion"] == record["code"].rstrip("\n")) == (not record["mistakes"])


@pytest.mark.parametrize(("split", "family"), SPLITS)
def test_a_part_with_a_length_says_along_which_axis_it_is(family, split):
    """In words and in the structured line, and it is so; what is round says no such thing."""
    long = "length" in BY_HAND[family][0]
    for index in range(20):
        record = parts.part(index, split=split, only=[family])
        assert record["prompt"].endswith("the z axis, its length along x." if long else "centred on the z axis.")
        line = parts.structured(family, record["numbers"])
        assert record["description"] == f"{line} on(z=0, centre=z_axis{', length=x' if long else ''})"
        low, high = record["gt"]["bbox"][0], record["gt"]["bbox"][3]
        assert not long or high - low == record["numbers"]["length"]
        plain = parts.part(index, split=split, only=[family], placed=False)
        assert plain["description"] == line and record["prompt"].startswith(plain["prompt"] + " It stands")


# family -> (numbers, volume, bounding box from zmin on) by hand
BY_HAND = {
    "plate": ({"length": 30, "width": 20, "thickness": 5, "hole": 10}, 3000 - 125 * math.pi, (30, 20, 5)),
    "drilled": (
        {"length": 30, "width": 20, "thickness": 5, "along": 20, "across": 10, "hole": 4},
        3000 - 80 * math.pi,
        (30, 20, 5),
    ),
    "slot": (
        {"length": 30, "width": 20, "thickness": 5, "slot": 14, "slot_width": 4},
        3000 - 200 - 20 * math.pi,
        (30, 20, 5),
    ),
    "pocket": (
        {"length": 30, "width": 20, "height": 10, "pocket_length": 10, "pocket_width": 8, "depth": 5},
        6000 - 400,
        (30, 20, 10),
    ),
    "boss": (
        {"length": 30, "width": 20, "thickness": 5, "boss": 10, "boss_height": 4},
        3000 + 100 * math.pi,
        (30, 20, 9),
    ),
    "frame": ({"length": 30, "width": 20, "inner_length": 10, "inner_width": 5, "height": 4}, 2400 - 200, (30, 20, 4)),
    "bracket": ({"length": 30, "width": 10, "height": 20, "thickness": 5}, 1500 + 750, (30, 10, 20)),
    "channel": ({"length": 30, "width": 20, "height": 10, "wall": 2}, 30 * (20 * 2 + 2 * 2 * 8), (30, 20, 10)),
    "tube": ({"outer": 10, "inner": 6, "height": 5}, 80 * math.pi, (10, 10, 5)),
    "shaft": ({"lower": 10, "upper": 4, "lower_height": 3, "upper_height": 5}, 95 * math.pi, (10, 10, 8)),
    "flange": (
        {"disc": 20, "hub": 10, "bore": 4, "thickness": 2, "hub_height": 4},
        (200 + 100 - 24) * math.pi,
        (20, 20, 6),
    ),
    "bolted": ({"disc": 20, "thickness": 2, "holes": 3, "hole": 4, "circle": 14}, (200 - 24) * math.pi, (20, 20, 2)),
    "pin": ({"diameter": 6, "height": 5}, (45 + 18) * math.pi, (6, 6, 8)),
    "nut": ({"corners": 4, "height": 2, "hole": 2}, 12 * math.sqrt(3) - 2 * math.pi, (4, 2 * math.sqrt(3), 2)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_forms_by_hand(family):
    numbers, volume, size = BY_HAND[family]
    assert FAMILIES[family].volume(numbers) == pytest.approx(volume)
    assert FAMILIES[family].size(numbers) == pytest.approx(size)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_builds_what_the_closed_form_says(family):
    """And one solid that is valid, in its box; a mistake makes another."""
    pytest.importorskip("cadquery")
    rng = random.Random(family)
    shape = FAMILIES[family]
    for numbers in (BY_HAND[family][0], *(shape.draw(rng) for _ in range(2))):
        solid, box = built(shape.code(numbers, Slips()))
        x, y, z = shape.size(numbers)
        assert solid.Volume() == pytest.approx(shape.volume(numbers), rel=1e-6)
        assert box == pytest.approx([-x / 2, -y / 2, 0, x / 2, y / 2, z], abs=1e-4)
        assert solid.isValid() and len(solid.Solids()) == 1
    for kind in shape.slips:
        wrong, box = built(shape.code(numbers, Slips(**{kind: True})))
        assert wrong.isValid()
        same = wrong.Volume() == pytest.approx(shape.volume(numbers), rel=1e-3)
        assert not same or box != pytest.approx([-x / 2, -y / 2, 0, x / 2, y / 2, z], abs=1e-3)


def built(code: str):
    """(the solid, its bounding box) of a program that is ours."""
    space: dict = {}
    exec(compile(parts.IMPORT + code, "<part>", "exec"), space)
    box = (solid := space["result"].val()).BoundingBox()
    return solid, [box.xmin, box.ymin, box.zmin, box.xmax, box.ymax, box.zmax]


def test_mistakes_are_as_many_as_asked_for():
    """Of each kind in the families that have a place for it, apart from one another."""
    records = [parts.program(i, slips=0.6) for i in range(1200)]
    for kind in ("parameter", "frame"):
        able = [r for r in records if kind in FAMILIES[r["family"]].slips]
        assert 0.54 < sum(kind in r["mistakes"] for r in able) / len(able) < 0.66
    assert not any(parts.program(i)["mistakes"] for i in range(100))


def test_a_chain_of_thought_stands_before_the_program():
    record = parts.program(8, only=["shaft"], slips=1.0, think=True)
    thought, program = record["completion"].split("</think>\n")
    assert (
        thought.startswith("<think>A shaft: lower ")
        and program == parts.program(8, only=["shaft"], slips=1.0)["completion"]
    )
    assert all(str(n) in thought for n in record["numbers"].values())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "test"}, "split='test'"),
        ({"only": ["cube"]}, r"only=\['cube'\]: the split 'train' has plate"),
        ({"only": ["nut"]}, "the split 'train' has"),
        ({"only": ["plate"], "split": "unseen"}, "the split .unseen. has nut, slot"),
        ({"only": []}, "only="),
    ],
)
def test_options_that_are_none_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        parts.part(0, **options)
    with pytest.raises(ValueError, match=r"slips=1\.5"):
        parts.program(0, slips=1.5)


def test_the_sample_is_what_the_generator_makes():
    records = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text().splitlines()]
    assert records[:36] == [parts.program(i, slips=0.25) for i in range(36)]
    assert records[36:48] == [parts.program(i, split="heldout") for i in range(12)]
    assert records[48:] == [parts.program(i, split="unseen") for i in range(4)]
    words = (FOLDER / "words.txt").read_text().splitlines()
    assert len(words) == len(set(words)) > 100 and parts.IMPORT.strip() in words


def test_every_program_passes_the_sieve_of_its_dialect():
    """Of all families and splits, right or wrong, with what its process would import."""
    cadquery = pytest.importorskip("cadquery")
    from mmrl.sandbox.sieve import compiled
    from mmrl.solids.dialects import DIALECTS

    sieve = DIALECTS["cadquery"].sieve(cadquery)
    for split in parts.SPLITS:
        for index in range(100):
            record = parts.program(index, split=split, slips=0.5)
            for code in (record["code"], record["completion"]):
                compiled(code, sieve)
