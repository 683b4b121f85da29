"""Does the picture show what the prompt counts, colours, shapes and relates? Seen in the pixels, no model.

Prompts are those of the composed scenes ("two red circles", "a blue square above three red triangles"). Every
pixel is explained as a mixture of the background and one known colour, so antialiased edges keep their colour
and carry sub-pixel coverage. A connected component is an object; it is named only when the fill of its
bounding box and its overlap with the ideal shape agree. Half-drawn shapes, lines, blobs and merged shapes are
"unknown" objects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from mmrl.types import Sample, Score

COLOURS = {"red": (214, 48, 44), "green": (40, 158, 72), "blue": (44, 92, 214), "yellow": (240, 190, 30)}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("above", "below", "left of", "right of")
COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3}
UNKNOWN = "unknown"

REJECT = 60.0  # RGB distance beyond which a pixel is no mixture of the background and a known colour
SPECK = 0.004  # share of the picture below which a component is no object
OBJECT = 0.015  # share of the picture below which an object is too small to be named
SOLID = 0.75  # mean coverage inside an object: paler ones are not of that colour
FILL = {"circle": (0.66, 0.92), "square": (0.82, 1.01), "triangle": (0.42, 0.68)}
ASPECT = 1.35  # longest over shortest side of the bounding box
APART = 0.1  # share of the side by which the centres of a relation must differ: less is beside, not above
RELATION = 0.25  # of a pair's `matched` score
OVERLAP = 0.84  # intersection over union with the ideal shape of the same area and centre

_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_NAMES = tuple(COLOURS)
_PHRASE = rf"({'|'.join(COUNTS)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})s?"
_PROMPT = re.compile(rf"{_PHRASE}(?: ({'|'.join(RELATIONS)}|and) {_PHRASE})?\.?")


@dataclass(frozen=True)
class Found:
    """One object in a picture. `x`, `y`: centre in pixels, origin top left; `area` in pixels.

    Colour and shape are "unknown" where the object could not be named. box: left, top, right, bottom, the last two
    behind its last pixels.
    """

    colour: str
    shape: str
    x: float
    y: float
    area: float
    box: tuple[int, int, int, int]


def follows(samples: list[Sample]) -> list[Score]:
    """Share of the prompt's claims that the picture keeps, in [0, 1].

    Per phrase: the colour is there, the shape in that colour is there, the count is exact. For a pair: the
    relation holds between all centres of the first phrase and all of the second, by a tenth of the side.
    Always: nothing else is in the picture (credited only when something that was asked for is). `details` has
    the objects found, each claim and `strict`: whether all of them hold. A prompt that is no composed scene
    is not applicable.
    """
    return [_judge(sample) for sample in samples]


def strict(samples: list[Sample]) -> list[Score]:
    """1 if the picture keeps every claim of the prompt, else 0; see `follows`."""
    return [
        Score(float(score.details["strict"]), details=score.details) if score.ok else score
        for score in follows(samples)
    ]


def matched(samples: list[Sample]) -> list[Score]:
    """How far the objects in the picture are those that were asked for, in [0, 1]; every object too many costs.

    The F1 of objects: twice those that were asked for and are there, over all that are there (unknown ones, too) and
    all that were asked for. Of a pair the relation is the rest: `RELATION` times the share of pairs of the two phrases'
    objects, of as many as were asked for, that stand as they should. 1 is the same picture as of `strict`.
    """
    return [_match(sample) for sample in samples]


def colours(samples: list[Sample]) -> list[Score]:
    """Share of the asked colours that are in the picture; see `follows`."""
    return _of_kind(samples, "colour")


def shapes(samples: list[Sample]) -> list[Score]:
    """Share of the asked shapes that are in the picture in their colour; see `follows`."""
    return _of_kind(samples, "shape")


def counts(samples: list[Sample]) -> list[Score]:
    """Share of the phrases whose count is exact; see `follows`."""
    return _of_kind(samples, "count")


def relations(samples: list[Sample]) -> list[Score]:
    """1 where the relation of the prompt's two phrases holds, else 0; not applicable where it names none."""
    return _of_kind(samples, "relation")


def alone(samples: list[Sample]) -> list[Score]:
    """1 where nothing but what was asked for is in the picture, and some of that is; else 0."""
    return _of_kind(samples, "nothing else")


def detect(image: Image.Image) -> list[Found]:
    """The objects of an RGB picture, in no particular order; about 32 to 128 pixels a side."""
    picture = image.convert("RGB")
    return list(_detect(picture.size, picture.tobytes()))


@lru_cache(maxsize=1024)  # the rewards of one batch look at the same pictures, one reward after the other
def _detect(size: tuple[int, int], rgb: bytes) -> tuple[Found, ...]:
    pixels = np.frombuffer(rgb, dtype=np.uint8).reshape(size[1], size[0], 3).astype(np.float32)
    coverage, colour = _unmix(pixels)
    labels, colour_of = _components(coverage, colour)
    if not colour_of:
        return ()
    # An antialiased edge reaches one pixel beyond the component: it belongs to the shape.
    reach = np.where(labels > 0, labels, ndimage.maximum_filter(labels, size=3))
    counts = np.bincount(labels.ravel())
    found = []
    for label, box in enumerate(ndimage.find_objects(reach), start=1):
        if box is None or counts[label] < SPECK * labels.size:
            continue
        inside = reach[box] == label
        core = labels[box] == label
        which = colour_of[label - 1]
        weight = inside.astype(np.float32) if which is None else coverage[which][box] * inside
        found.append(_name(weight, core, which, box, labels.size))
    return tuple(found)


def objects(picture: Image.Image) -> list[dict[str, Any]]:
    """What `detect` finds as a detector of `mmrl bench geneval` gives it: shapes as labels, sure, with colours."""
    return [{"box": one.box, "label": one.shape, "score": 1.0, "colour": one.colour} for one in detect(picture)]


objects.names_colours = True  # type: ignore[attr-defined]


def _unmix(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([4, H, W] coverage by each colour in [0, 1], [H, W] index of the colour, -1 background, 4 unknown)."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    background = np.median(border, axis=0)
    flat = (pixels - background).reshape(-1, 3).T
    ray = _PALETTE - background
    length2 = (ray**2).sum(1, keepdims=True)
    along = ray @ flat
    coverage = np.clip(along / np.maximum(length2, 1.0), 0.0, 1.0)
    residual = (flat**2).sum(0) - coverage * (2.0 * along - coverage * length2)
    residual[length2[:, 0] < REJECT**2] = np.inf  # this colour is the background
    best = residual.argmin(0)
    nearest = np.arange(best.size)
    colour = np.where(coverage[best, nearest] > 0.5, best, -1)
    colour[residual[best, nearest] > REJECT**2] = len(_NAMES)
    height, width = pixels.shape[:2]
    return coverage.reshape(-1, height, width), colour.reshape(height, width)


def _components(coverage: np.ndarray, colour: np.ndarray) -> tuple[np.ndarray, list[int | None]]:
    """([H, W] labels from 1, the colour of each label or None): 4-connected, one colour each."""
    labels = np.zeros(colour.shape, dtype=np.int32)
    colour_of: list[int | None] = []
    for which in np.unique(colour[colour >= 0]):
        part, count = ndimage.label(colour == which)
        labels += np.where(part > 0, part + len(colour_of), 0)
        colour_of += [int(which) if which < len(coverage) else None] * count
    return labels, colour_of


def _name(weight: np.ndarray, core: np.ndarray, which: int | None, box: tuple, pixels: int) -> Found:
    area = float(weight.sum())
    rows, columns = weight.sum(1), weight.sum(0)
    y = float(rows @ np.arange(len(rows))) / area
    x = float(columns @ np.arange(len(columns))) / area
    at: dict[str, Any] = {"x": x + box[1].start, "y": y + box[0].start, "area": area}
    at["box"] = (box[1].start, box[0].start, box[1].stop, box[0].stop)
    if which is None or area < OBJECT * pixels or weight[core].mean() < SOLID:
        return Found(UNKNOWN, UNKNOWN, **at)
    return Found(_NAMES[which], _shape(weight, x, y, area), **at)


def _shape(weight: np.ndarray, x: float, y: float, area: float) -> str:
    """The shape whose fill range holds and whose ideal overlaps `weight` [h, w] most, or "unknown"."""
    height, width = float(weight.max(1).sum()), float(weight.max(0).sum())
    if max(height, width) > ASPECT * min(height, width):
        return UNKNOWN
    fill = area / (height * width)
    # The ideal may reach further than the object: one empty pixel around keeps that in the union.
    framed = np.pad(weight, 1)
    down = (np.arange(framed.shape[0]) - 1 - y)[:, None]
    right = np.abs(np.arange(framed.shape[1]) - 1 - x)[None, :]
    total, best, name = float(framed.sum()), OVERLAP, UNKNOWN
    for shape, (low, high) in FILL.items():
        if low <= fill <= high:
            ideal = _ideal(shape, down, right, area)
            common = float(np.minimum(framed, ideal).sum())
            overlap = common / (total + float(ideal.sum()) - common)
            if overlap > best:
                best, name = overlap, shape
    return name


def _ideal(shape: str, down: np.ndarray, right: np.ndarray, area: float) -> np.ndarray:
    """[h, w] pixel coverage of the ideal shape of `area` pixels, centroid at 0.

    down: [h, 1] pixels below the centroid. right: [1, w] pixels beside it, absolute.
    """
    if shape == "circle":
        edge = (area / np.pi) ** 0.5 - np.hypot(down, right)
        return _cover(edge)
    if shape == "square":
        half = area**0.5 / 2
        return _cover(half - np.abs(down)) * _cover(half - right)
    # Upright and nearly equilateral: base 2.1 r, height 1.85 r, the centroid at two thirds of the height.
    r = (area / (0.5 * 2.1 * 1.85)) ** 0.5
    height, slope = 1.85 * r, 1.05 / 1.85
    side = ((down + height * 2 / 3) * slope - right) / (1 + slope**2) ** 0.5
    return _cover(side) * _cover(height / 3 - down)


def _cover(inside: np.ndarray) -> np.ndarray:
    """Share of a pixel that is covered when its centre lies `inside` pixels within a straight edge."""
    return np.clip(inside + 0.5, 0.0, 1.0)


def _judge(sample: Sample, kind: str | None = None) -> Score:
    """Share of the claims that hold, of all of them or of one kind."""
    claims, relation, reason = _asked(sample.prompt.text, sample.prompt.record)
    if reason:
        return Score(None, reason, "na")
    found = detect(sample.artifact)
    kept = _claims(found, claims, relation, sample.artifact.size)
    if kind is not None:
        kept = [claim for claim in kept if claim[0] == kind]
        if not kept:
            return Score(None, f"the prompt claims no {kind}", "na")
    held = [holds for _, _, holds in kept]
    details = {
        "found": [f"{f.colour} {f.shape} at ({f.x:.0f}, {f.y:.0f})" for f in found],
        "claims": {words: holds for _, words, holds in kept},
        "strict": all(held),
    }
    return Score(sum(held) / len(held), details=details)


def _match(sample: Sample) -> Score:
    claims, relation, reason = _asked(sample.prompt.text, sample.prompt.record)
    if reason:
        return Score(None, reason, "na")
    found = detect(sample.artifact)
    shown = [[f for f in found if (f.colour, f.shape) == (c["colour"], c["shape"])] for c in claims]
    asked = [int(claim["count"]) for claim in claims]
    f1 = 2 * sum(map(min, map(len, shown), asked)) / (len(found) + sum(asked))
    if relation is None:
        return Score(f1)
    stand = sum(_related([a], [b], relation, sample.artifact.size) for a in shown[0] for b in shown[1])
    pairs = max(len(shown[0]), asked[0]) * max(len(shown[1]), asked[1])
    return Score((1 - RELATION) * f1 + RELATION * stand / pairs)


def _of_kind(samples: list[Sample], kind: str) -> list[Score]:
    """Share of the claims of a kind that hold."""
    return [_judge(sample, kind) for sample in samples]


def _claims(
    found: list[Found], claims: list[Mapping[str, Any]], relation: str | None, size: tuple[int, int]
) -> list[tuple[str, str, bool]]:
    """(kind, in words, does it hold) of each claim, in a picture of `size` (width, height)."""
    kept: list[tuple[str, str, bool]] = []
    shown = []
    for number, claim in enumerate(claims, start=1):
        colour, shape, count = claim["colour"], claim["shape"], claim["count"]
        these = [f for f in found if (f.colour, f.shape) == (colour, shape)]
        shown.append(these)
        kept.append(("colour", f"{number}: {colour}", any(f.colour == colour for f in found)))
        kept.append(("shape", f"{number}: {colour} {shape}", bool(these)))
        kept.append(("count", f"{number}: {count} x {colour} {shape}", len(these) == count))
    if relation is not None:
        kept.append(("relation", relation, _related(shown[0], shown[1], relation, size)))
    kept.append(("nothing else", "nothing else", any(shown) and sum(map(len, shown)) == len(found)))
    return kept


def _related(first: list[Found], second: list[Found], relation: str, size: tuple[int, int]) -> bool:
    if not first or not second:
        return False
    if relation in ("right of", "below"):
        first, second = second, first
    if relation in ("left of", "right of"):
        return max(f.x for f in first) + APART * size[0] < min(f.x for f in second)
    return max(f.y for f in first) + APART * size[1] < min(f.y for f in second)


def _asked(text: str, record: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], str | None, str]:
    """(claims, relation, why the prompt is not applicable or "")."""
    if record.get("claims"):
        claims, relation = list(record["claims"]), record.get("relation") or None
    else:
        match = _PROMPT.fullmatch(" ".join(text.lower().split()))
        if not match:
            return (
                [],
                None,
                f"prompt {text!r} is not a composed scene such as 'two red circles above a blue square'",
            )
        one, two = match.group(1, 2, 3), match.group(5, 6, 7)
        claims = [
            {"count": COUNTS[count], "colour": colour, "shape": shape}
            for count, colour, shape in ([one, two] if two[0] else [one])
        ]
        relation = None if match.group(4) == "and" else match.group(4)
    unknown = [c["colour"] for c in claims if c["colour"] not in COLOURS]
    unknown += [c["shape"] for c in claims if c["shape"] not in SHAPES]
    unknown += [relation] if relation is not None and relation not in RELATIONS else []
    if unknown:
        return [], None, f"the detector knows no {', '.join(map(repr, unknown))}"
    if relation is not None and len(claims) != 2:
        return [], None, f"the relation {relation!r} needs two claims, the record has {len(claims)}"
    return claims, relation, ""
