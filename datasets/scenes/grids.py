"""Grids of composed scenes: cells that show the same, or differ in shape alone, and the captions that ask for them.

"a red circle left of a red square" is a grid of 1 x 2 cells, "two red circles above two red squares" one of 2 x 2, an
object to a cell: words that the captions of scenes.py have, too. Write grids.jsonl: `python datasets/scenes/grids.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mmrl.importing import import_file

scenes = import_file(Path(__file__).with_name("scenes.py"))

# Relation -> grid of [rows, columns] that it makes of two phrases.
GRIDS = {"left of": [1, 2], "above": [2, 1]}


def all_grids() -> Iterator[dict]:
    """Every grid as a record {id, prompt, grid, cells, same, split}; the split is a hash of the prompt.

    cells: the caption of each cell, line by line. same: in what they agree; the shape, too, where all have one.
    """
    shapes = list(itertools.product(scenes.SHAPES, scenes.SHAPES))
    for (relation, grid), colour, (one, other) in itertools.product(GRIDS.items(), scenes.COLOURS, shapes):
        yield _record(relation, grid, colour, [one, other], 1, [one, other])
    for colour, (one, other) in itertools.product(scenes.COLOURS, shapes):
        yield _record("above", [2, 2], colour, [one, other], 2, [one, one, other, other])


def _record(relation: str, grid: list[int], colour: str, shapes: list[str], count: int, cells: list[str]) -> dict:
    first, second = (scenes.phrase({"count": count, "colour": colour, "shape": shape}) for shape in shapes)
    prompt = f"{first} {relation} {second}"
    share = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") / 2**32
    return {
        "id": prompt.replace(" ", "-"),
        "prompt": prompt,
        "grid": grid,
        "cells": [scenes.phrase({"count": 1, "colour": colour, "shape": shape}) for shape in cells],
        "same": ["colour", "size", *(["shape"] if len(set(cells)) == 1 else [])],
        "split": "heldout" if share < scenes.HELD_OUT_SHARE else "train",
    }


def draw(record: dict, rng: np.random.Generator, size: int = 40) -> Image.Image:
    """The grid as an RGB picture of `size` pixels a side: one object whole in each cell, all of one radius."""
    rows, columns = record["grid"]
    scale, side = 8, size * 8
    canvas = Image.new("RGB", (side, side), scenes.BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    radius = rng.uniform(4.6, 5.4) * size / 40
    edge = radius * 1.15 + size / 40  # a triangle's corner reaches further than its radius
    for place, words in enumerate(record["cells"]):
        _, colour, shape = words.split()
        row, column = divmod(place, columns)
        x, y = (
            rng.uniform(part * size / parts + edge, (part + 1) * size / parts - edge)
            for part, parts in ((column, columns), (row, rows))
        )
        scenes.outline(pen, shape, x * scale, y * scale, radius * scale, scenes.COLOURS[colour])
    return canvas.resize((size, size), Image.Resampling.BOX)


def captioned(index: int, seed: int = 0, caption_noise: float = 0.0, size: int = 80) -> dict:
    """The `index`-th captioned grid of an endless, seeded stream over the training grids.

    Returns {"id", "prompt", "image"}. caption_noise: the chance that the caption is another grid's of the training
    split, drawn at random: what a model has learned that draws grids, but not always the one that was asked for.
    """
    rng = np.random.default_rng([seed, index])
    made = _training()
    record = made[rng.integers(len(made))]
    said = made[rng.integers(len(made))] if rng.random() < caption_noise else record
    return {"id": f"{seed}-{index}", "prompt": said["prompt"], "image": draw(record, rng, size)}


_kept: list[dict] = []


def _training() -> list[dict]:
    if not _kept:
        _kept.extend(record for record in all_grids() if record["split"] == "train")
    return _kept


if __name__ == "__main__":
    lines = [json.dumps(record) for record in all_grids()]
    Path(__file__).with_name("grids.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} grids")
