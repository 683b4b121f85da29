"""Composed scenes: coloured shapes in counted, related groups, and the captions that describe them.

Everything is drawn here, so there is nothing to license and no limit on the amount. A *claim* is a counted
phrase ("two red circles"); a scene is one claim, or two claims and a relation between them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (214, 48, 44), "green": (40, 158, 72), "blue": (44, 92, 214), "yellow": (240, 190, 30)}
SHAPES = ("circle", "square", "triangle")
COUNTS = {"a": 1, "two": 2, "three": 3}
RELATIONS = ("above", "below", "left of", "right of")
BACKGROUND = (246, 245, 240)
SIZE = 40
HELD_OUT_SHARE = 0.2

# Relation -> the boxes (x0, y0, x1, y1) of its claims, of a picture of 40 x 40.
HALVES = {
    None: [(0, 0, 40, 40)],
    "above": [(0, 0, 40, 20), (0, 20, 40, 40)],
    "below": [(0, 20, 40, 40), (0, 0, 40, 20)],
    "left of": [(0, 0, 20, 40), (20, 0, 40, 40)],
    "right of": [(20, 0, 40, 40), (0, 0, 20, 40)],
}

Claim = dict  # {"count": int, "colour": str, "shape": str}


def phrase(claim: Claim) -> str:
    """The words of one claim: "a red circle", "two blue squares"."""
    word = next(w for w, n in COUNTS.items() if n == claim["count"])
    return f"{word} {claim['colour']} {claim['shape']}{'s' if claim['count'] > 1 else ''}"


def caption(claims: list[Claim], relation: str | None) -> str:
    return phrase(claims[0]) if relation is None else f"{phrase(claims[0])} {relation} {phrase(claims[1])}"


def all_scenes() -> Iterator[dict]:
    """Every scene as a record {id, prompt, claims, relation, split}; the split is a hash of the prompt."""
    phrases = [{"count": n, "colour": c, "shape": s} for n, c, s in itertools.product(COUNTS.values(), COLOURS, SHAPES)]
    pairs = [
        ([a, b], relation)
        for a, b, relation in itertools.product(phrases, phrases, RELATIONS)
        if (a["colour"], a["shape"]) != (b["colour"], b["shape"])
    ]
    for claims, relation in [([p], None) for p in phrases] + pairs:
        prompt = caption(claims, relation)
        share = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") / 2**32
        # Single phrases are the vocabulary: a model that never saw one could not be asked for a pair.
        held_out = relation is not None and share < HELD_OUT_SHARE
        yield {
            "id": prompt.replace(" ", "-"),
            "prompt": prompt,
            "claims": claims,
            "relation": relation,
            "split": "heldout" if held_out else "train",
        }


def outline(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, fill: Any) -> None:
    """Draw a shape of radius r around (x, y)."""
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    else:
        pen.polygon(_polygon(shape, x, y, r), fill=fill)


def _polygon(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if shape == "square":
        h = r * 0.88
        return [(x - h, y - h), (x + h, y - h), (x + h, y + h), (x - h, y + h)]
    return [(x, y - r), (x + r * 1.05, y + r * 0.85), (x - r * 1.05, y + r * 0.85)]


def centres(count: int, box: tuple[float, float, float, float], r: float, rng: np.random.Generator):
    """`count` centres inside box (x0, y0, x1, y1), at least 2 r + 2 apart; spaced along the longer side."""
    x0, y0, x1, y1 = box
    along_x = (x1 - x0) >= (y1 - y0)
    lo, hi = (x0, x1) if along_x else (y0, y1)
    gap = 2 * r + 2
    slack = max(0.0, (hi - lo) - 2 * r - 2 - gap * (count - 1))
    offsets = np.sort(rng.uniform(0, slack, count)) + gap * np.arange(count) + lo + r + 1
    cross_lo, cross_hi = (y0 + r + 1, y1 - r - 1) if along_x else (x0 + r + 1, x1 - r - 1)
    cross = rng.uniform(cross_lo, max(cross_lo, cross_hi), count)
    return [(a, c) if along_x else (c, a) for a, c in zip(offsets, cross)]


def draw(claims: list[Claim], relation: str | None, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """The scene as an RGB picture of `size` pixels a side, antialiased; layout drawn from `rng`."""
    s = size / 40
    scale = 8
    canvas = Image.new("RGB", (size * scale, size * scale), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for claim, box in zip(claims, HALVES[relation]):
        r = rng.uniform(4.6, 5.4)
        for x, y in centres(claim["count"], box, r, rng):
            x, y, rr = x * s * scale, y * s * scale, r * s * scale
            outline(pen, claim["shape"], x, y, rr, COLOURS[claim["colour"]])
    return canvas.resize((size, size), Image.Resampling.BOX)


def _misread(claims: list[Claim], relation: str | None, noise: float, rng: np.random.Generator):
    """Each attribute of the caption replaced by a random one with probability `noise`."""

    def maybe(value, choices):
        return choices[rng.integers(len(choices))] if rng.random() < noise else value

    said = [
        {
            "count": maybe(c["count"], list(COUNTS.values())),
            "colour": maybe(c["colour"], list(COLOURS)),
            "shape": maybe(c["shape"], SHAPES),
        }
        for c in claims
    ]
    return said, None if relation is None else maybe(relation, RELATIONS)


def captioned(index: int, seed: int = 0, caption_noise: float = 0.0, size: int = SIZE) -> dict:
    """The `index`-th captioned picture of an endless, seeded stream over the *training* scenes.

    Returns {"id", "prompt", "image"}. `caption_noise` is the chance that an attribute of the caption is
    replaced by a random one, as captions from the web are wrong; captions of the held-out split never occur.
    """
    rng = np.random.default_rng([seed, index])
    scenes = _train_scenes()
    scene = scenes[rng.integers(36)] if rng.random() < 0.15 else scenes[rng.integers(len(scenes))]
    image = draw(scene["claims"], scene["relation"], rng, size)
    for _ in range(20):
        said = caption(*_misread(scene["claims"], scene["relation"], caption_noise, rng))
        if said in _train_prompts():
            break
    else:
        said = scene["prompt"]
    return {"id": f"{seed}-{index}", "prompt": said, "image": image}


_cache: dict = {}


def _train_scenes() -> list[dict]:
    if "scenes" not in _cache:
        _cache["scenes"] = [s for s in all_scenes() if s["split"] == "train"]
    return _cache["scenes"]


def _train_prompts() -> set[str]:
    if "prompts" not in _cache:
        _cache["prompts"] = {s["prompt"] for s in _train_scenes()}
    return _cache["prompts"]
