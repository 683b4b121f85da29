"""Grids of scenes: the file is what the script makes, splits are apart, words are the tiny model's."""

from __future__ import annotations

import json

import numpy as np

from mmrl.grids import grid_of, theme_of, words_of_cells
from mmrl.importing import import_file
from mmrl.share import share

FOLDER = share("datasets") / "scenes"
grids = import_file(FOLDER / "grids.py")


def test_the_file_is_what_the_script_makes():
    lines = (FOLDER / "grids.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(grids.all_grids())
    ids = [json.loads(line)["id"] for line in lines]
    assert len(set(ids)) == len(ids)


def test_every_word_is_one_that_captions_of_scenes_have():
    known = set((FOLDER / "captions.txt").read_text().split())
    assert {word for record in grids.all_grids() for word in record["prompt"].split()} <= known


def test_held_out_captions_are_never_drawn_and_are_held_out_of_the_scenes_too():
    held_out = {r["prompt"] for r in grids.all_grids() if r["split"] == "heldout"}
    assert held_out
    assert not held_out & {grids.captioned(i, 0, 0.5)["prompt"] for i in range(300)}
    scenes = [json.loads(line) for line in (FOLDER / "prompts.jsonl").read_text().splitlines()]
    assert not held_out & {scene["prompt"] for scene in scenes if scene["split"] == "train"}


def test_a_picture_is_a_function_of_seed_and_number_at_any_size():
    one, again, other = (grids.captioned(i, 3, 0.2, 40) for i in (5, 5, 6))
    assert one["image"].size == (40, 40)
    assert one["prompt"] == again["prompt"]
    assert np.array_equal(one["image"], again["image"])
    assert not np.array_equal(one["image"], other["image"])


def test_prompts_of_grids_tell_their_cells_in_words():
    script = import_file(share("datasets") / "prompts" / "build_grids.py")
    lines = (share("datasets") / "prompts" / "grids.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == script.prompts()
    for record in script.prompts():
        without = {"prompt": record["prompt"]}
        grid = grid_of(without, record["prompt"])
        assert [grid.rows, grid.columns] == record["grid"]
        assert len(set(words_of_cells(without, record["prompt"], grid))) == grid.cells
        assert "[" not in theme_of(record["prompt"])
