"""Moving shapes: short films of one coloured shape that goes one way, and the captions that describe them.

Everything is drawn here, so there is nothing to license and no limit on the amount: "a red square moves left".
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mmrl.importing import import_file

scenes = import_file(Path(__file__).resolve().parents[1] / "scenes" / "scenes.py")

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIZE, FRAMES = 32, 5
RADIUS = (4.2, 5.0)  # of a picture of 32 x 32, in pixels, as are the others
STEP = (2.2, 3.4)  # from a frame to the next
MARGIN = 1.5  # between the shape and the edge
HELD_OUT_SHARE = 0.2
DETAIL = 8  # pixels drawn to a side of one


def caption(colour: str, shape: str, way: str) -> str:
    return f"a {colour} {shape} moves {way}"


def all_films() -> Iterator[dict[str, str]]:
    """Every film as a record {id, prompt, colour, shape, way, split}; the split is a hash of the prompt."""
    for colour, shape, way in itertools.product(scenes.COLOURS, scenes.SHAPES, WAYS):
        prompt = caption(colour, shape, way)
        share = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") / 2**32
        split = "heldout" if share < HELD_OUT_SHARE else "train"
        yield {
            "id": prompt.replace(" ", "-"),
            "prompt": prompt,
            "colour": colour,
            "shape": shape,
            "way": way,
            "split": split,
        }


def draw(
    colour: str, shape: str, way: str, rng: np.random.Generator, size: int = SIZE, frames: int = FRAMES
) -> list[Image.Image]:
    """The film as RGB pictures of `size` pixels a side, antialiased; size, place and pace of the shape from `rng`.

    It stays whole in the picture, at an even pace. Raises ValueError for more frames than it has room for.
    """
    radius, step = rng.uniform(*RADIUS), rng.uniform(*STEP)
    way_x, way_y = WAYS[way]
    low, high, length = radius + MARGIN, SIZE - radius - MARGIN, step * (frames - 1)
    if low + length > high:
        raise ValueError(f"frames={frames}: a shape has no room for more than {1 + int((high - low) / step)}")
    start = rng.uniform(low, high - length)
    across = rng.uniform(low, high)
    shown = []
    for number in range(frames):
        along = start + step * number
        along = along if way_x + way_y > 0 else SIZE - along
        x, y = (along, across) if way_x else (across, along)
        shown.append(_picture(scenes.COLOURS[colour], shape, x, y, radius, size))
    return shown


def _picture(fill: Any, shape: str, x: float, y: float, radius: float, size: int) -> Image.Image:
    scale = size * DETAIL / SIZE
    canvas = Image.new("RGB", (size * DETAIL, size * DETAIL), scenes.BACKGROUND)
    scenes.outline(ImageDraw.Draw(canvas), shape, x * scale, y * scale, radius * scale, fill)
    return canvas.resize((size, size), Image.Resampling.BOX)


def captioned(
    index: int, seed: int = 0, way_noise: float = 0.0, size: int = SIZE, frames: int = FRAMES
) -> dict[str, Any]:
    """The `index`-th captioned film of an endless, seeded stream over the training films: {"id", "prompt", "video"}.

    way_noise: the chance that the caption tells a random way, so that a model learns the words but does not follow them
    reliably; captions of the held-out split never occur.
    """
    rng = np.random.default_rng([seed, index])
    training = _training()
    film = training[rng.integers(len(training))]
    video = draw(film["colour"], film["shape"], film["way"], rng, size, frames)
    said = film["prompt"]
    if rng.random() < way_noise:
        same = [f["prompt"] for f in training if (f["colour"], f["shape"]) == (film["colour"], film["shape"])]
        said = same[rng.integers(len(same))]
    return {"id": f"{seed}-{index}", "prompt": said, "video": video}


@cache
def _training() -> list[dict[str, str]]:
    return [film for film in all_films() if film["split"] == "train"]
