"""Moving shapes: films are those of their index, captions are noisy as often as told, held-out ones never occur."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmrl.importing import import_file

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "moving"
moving = import_file(FOLDER / "moving.py")
FILMS = list(moving.all_films())


def test_the_files_are_those_that_the_script_writes():
    rows = [json.loads(line) for line in (FOLDER / "prompts.jsonl").read_text().splitlines()]
    assert rows == FILMS and len({row["prompt"] for row in rows}) == 48
    assert (FOLDER / "captions.txt").read_text().splitlines() == [row["prompt"] for row in rows]
    heldout = [row for row in rows if row["split"] == "heldout"]
    assert len(heldout) == 7
    for column in ("colour", "shape", "way"):  # every word is learnt
        assert {row[column] for row in rows if row["split"] == "train"} == {row[column] for row in rows}


def test_one_index_is_one_film_and_captions_are_wrong_as_often_as_told():
    """A random way of the training captions of that colour and shape, 3.4 of them on average: 0.7 of the noise."""
    one, again = (moving.captioned(7, seed=3) for _ in range(2))
    assert one["prompt"] == again["prompt"]
    assert [a.tobytes() for a in one["video"]] == [b.tobytes() for b in again["video"]]
    assert len(one["video"]) == 5 and {frame.size for frame in one["video"]} == {(32, 32)}
    clean = [moving.captioned(i, size=8, frames=2)["prompt"] for i in range(400)]
    noisy = [moving.captioned(i, size=8, frames=2, way_noise=0.5)["prompt"] for i in range(400)]
    heldout = {film["prompt"] for film in FILMS if film["split"] == "heldout"}
    assert not heldout & {*clean, *noisy}
    assert 0.25 < np.mean([a != b for a, b in zip(clean, noisy)]) < 0.45


def test_there_is_room_for_some_frames_only():
    with pytest.raises(ValueError, match="frames=20: a shape has no room for more than"):
        moving.draw("red", "square", "left", np.random.default_rng(0), frames=20)
