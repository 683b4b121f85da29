"""Judged pictures: the labels are what the pixels say, every flaw occurs, captions of the splits are apart."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmrl.data.candidates import pair_columns
from mmrl.importing import import_file
from mmrl.types import Prompt

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "datasets" / "judged_pictures"
judged = import_file(FOLDER / "judged_pictures.py")
composition = import_file(ROOT / "rewards" / "composition.py")


def drawn(*told: str) -> list:
    """ "red circle 10 12": objects by colour, shape and middle; another word behind is a flaw."""
    made = []
    for words in told:
        colour, shape, x, y, *flaw = words.split()
        made.append(judged.Drawn(colour, shape, float(x), float(y), 5.0, *flaw))
    return made


def pictures(made: dict) -> list:
    return [candidate["images"][0] for candidate in made["candidates"]]


def seen(made: dict, picture) -> float:
    """What composition.follows sees in the pixels."""
    prompt = Prompt("p", made["prompt"], {"prompt": made["prompt"]})
    return composition.follows([SimpleNamespace(prompt=prompt, artifact=picture())])[0].value


# What is drawn for "two red circles above a blue square" -> claims that hold, of eight: red, blue, red circle, blue
# square, two of them, one of it, nothing else, above.
TWO_REDS = ({"count": 2, "colour": "red", "shape": "circle"}, {"count": 1, "colour": "blue", "shape": "square"})
TABLE = [
    ((), 0),
    (("red circle 10 10", "red circle 30 10", "blue square 20 30"), 8),
    (("red circle 10 10", "red circle 30 10", "blue square 20 13"), 7),
    (("red circle 10 10", "red circle 30 10", "blue square 20 30", "green circle 33 33"), 7),
    (("red circle 10 10", "blue square 20 30"), 7),
    (("red circle 10 10", "red circle 30 10 pale", "blue square 20 30"), 6),
    (("red square 10 10", "red square 30 10", "blue square 20 30"), 4),
    (("red circle 10 30", "red circle 30 30", "blue square 20 10"), 7),
    (("green circle 10 10",), 0),
    (("red circle 10 10", "red circle 30 10"), 4),
]


@pytest.mark.parametrize(("told", "kept"), TABLE, ids=[", ".join(told) or "nothing" for told, _ in TABLE])
def test_claims_that_a_picture_keeps(told, kept):
    assert judged.truth(drawn(*told), TWO_REDS, "above") == kept / 8


def test_labels_are_what_the_pixels_say():
    """Of the objects that are neither one thing nor the other some pass as one of them; the others are told apart."""
    pairs = [judged.pair(index, split=split) for index in range(100) for split in ("train", "heldout")]
    right = 0
    for made in pairs:
        by_pixels = [seen(made, picture) for picture in pictures(made)]
        right += by_pixels[made["shares"].index(1.0)] > by_pixels[made["shares"].index(0.0)]
        for picture, truth, told in zip(pictures(made), made["truth"], by_pixels):
            if not any(item.flaw for item in picture.objects):
                assert told == pytest.approx(truth)
        assert made["truth"][made["shares"].index(1.0)] == max(made["truth"]) > min(made["truth"])
    assert right / len(pairs) > 0.95


@pytest.mark.parametrize("flaw", sorted({*judged.FLAWS} - {"extra"}))
def test_a_flaw_is_what_it_says(flaw):
    """A clean picture against one with this flaw; "extra" is the one that adds an object."""
    for index in range(20):
        made = judged.pair(index, flaws=[flaw], most=1, close=0.0)
        better, worse = (pictures(made)[made["shares"].index(share)].objects for share in (1.0, 0.0))
        assert made["category"] == flaw and max(made["truth"]) == 1.0
        kinds = [sorted((item.colour, item.shape) for item in objects) for objects in (better, worse)]
        spoilt = [item.flaw for item in worse if item.flaw]
        if flaw in ("muddy", "melted", "pale", "merged"):
            assert spoilt == [flaw] and kinds[0] == kinds[1]
        else:
            assert not spoilt
            assert (kinds[0] == kinds[1]) == (flaw == "place")
            assert len(worse) == len(better) - (flaw == "missing") or flaw == "count"


def test_an_extra_object_touches_no_other():
    for index in range(20):
        made = judged.pair(index, flaws=["extra"], most=1, close=1.0)
        better, worse = (pictures(made)[made["shares"].index(share)].objects for share in (1.0, 0.0))
        assert worse[:-1] == better
        assert all(np.hypot(item.x - worse[-1].x, item.y - worse[-1].y) > 2 * 5.4 for item in better)


def test_every_flaw_occurs_and_the_better_picture_is_first_in_half():
    pairs = [judged.pair(index) for index in range(600)]
    assert {made["category"] for made in pairs} == set(judged.FLAWS)
    assert np.mean([made["shares"][0] for made in pairs]) == pytest.approx(0.5, abs=0.08)
    assert np.mean([made["near"] for made in pairs]) == pytest.approx(0.5, abs=0.08)
    shuffled = [judged.pair(index, labels="shuffled") for index in range(600)]
    true = [np.argmax(made["shares"]) == np.argmax(made["truth"]) for made in shuffled]
    assert np.mean(true) == pytest.approx(0.5, abs=0.08)


def test_index_seed_and_options_decide_everything_and_a_pair_is_a_pair():
    for index in (0, 7, 10**6):
        one, two = judged.pair(index, lazy=False), judged.pair(index)
        assert pair_columns(two)["shares"] == one["shares"]
        for shown, lazy in zip(pictures(one), pictures(two)):
            assert shown.size == (40, 40) and shown.tobytes() == lazy().tobytes()
        assert {**one, "candidates": 0} == {**two, "candidates": 0}
        assert judged.pair(index, seed=1)["candidates"] != two["candidates"]


def test_held_out_captions_are_never_trained_on():
    told = {split: set() for split in ("train", "heldout")}
    for line in (ROOT / "datasets" / "scenes" / "prompts.jsonl").read_text(encoding="utf-8").splitlines():
        scene = json.loads(line)
        told[scene["split"]].add(scene["prompt"])
    for split, captions in told.items():
        assert {judged.pair(index, split=split)["prompt"] for index in range(200)} <= captions
        assert {judged.record(index, split=split, task="caption")["completion"] for index in range(200)} <= captions


def test_captions_of_one_claim():
    assert {len(judged.pair(index, claims=1)["claims"]) for index in range(50)} == {1}
    assert {len(judged.pair(index)["claims"]) for index in range(50)} == {1, 2}


def test_a_record_tells_the_only_object_of_a_picture():
    words = {judged.record(index, task="one")["completion"] for index in range(200)}
    assert words == {f"{colour} {shape}" for colour in judged.scenes.COLOURS for shape in judged.scenes.SHAPES}


def test_a_record_tells_what_is_in_each_cell():
    objects = drawn("red circle 5 5", "blue square 20 20", "green circle 35 20 pale", "yellow triangle 20 31")
    assert judged.cells(objects) == ("red circle, none, none, none, blue square, unclear, none, yellow triangle, none")
    made = judged.record(4, task="cells", lazy=False)
    assert made["prompt"] == "<image>cells" and made["completion"].count(",") == 8
    assert made["images"][0].tobytes() == judged.record(4, task="cells")["images"][0]().tobytes()
    turn = [judged.record(index)["task"] for index in range(4)]
    assert turn == ["cells", "caption", "cells", "caption"]


@pytest.mark.parametrize(
    "options",
    [
        {"flaws": ["colours"]},
        {"flaws": []},
        {"most": 0},
        {"close": 1.5},
        {"claims": 3},
        {"claims": 1, "split": "heldout"},
        {"labels": "wrong"},
        {"split": "test"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=r"expected|must be"):
        judged.pair(0, **options)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="expected one of one, cells, caption"):
        judged.record(0, task="cell")


def test_the_sample_is_what_the_generator_makes():
    lines = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        made = judged.pair(number % 8, split=line["split"])
        assert line == json.loads(json.dumps({key: value for key, value in made.items() if key != "candidates"}))
