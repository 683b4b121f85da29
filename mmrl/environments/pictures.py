"""Views that an environment shows: whole pictures at a size, and crops with named reasons where there can be none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmrl.media import Box, Media, Size, View, box_problem, from_original, to_original

# A box may reach into a pixel by this much without that pixel being shown: it is the rounding of floats.
_HAIR = 1e-6


def fitted(size: Size, min_pixels: int | None = None, max_pixels: int | None = None) -> Size:
    """The size with an area inside [min_pixels, max_pixels], up to the rounding of sides, by one factor on both sides.

    None is no bound. Each side is one pixel or more.
    """
    area = size[0] * size[1]
    if max_pixels is not None and area > max_pixels:
        factor = math.sqrt(max_pixels / area)
        return (max(1, math.floor(size[0] * factor + _HAIR)), max(1, math.floor(size[1] * factor + _HAIR)))
    if min_pixels is not None and area < min_pixels:
        factor = math.sqrt(min_pixels / area)
        return (math.ceil(size[0] * factor - _HAIR), math.ceil(size[1] * factor - _HAIR))
    return size


def scaled(size: Size, factor: float) -> Size:
    """Both sides times `factor`, rounded; one pixel or more."""
    return (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))


def whole(picture: int, original: Size, size: Size) -> View:
    """All of a picture, shown at `size`."""
    return View(picture, size=None if size == original else size)


def cropped(
    box: Sequence[float],
    media: Media,
    *,
    smallest: float = 0.0,
    aspect: float = math.inf,
    clip: bool = False,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> tuple[View | None, str]:
    """(the view of a box that the policy wrote in `media`, "ok"), or (None, why not), as `box_problem` names it.

    The rules hold in the pixels that the model saw: sides above `smallest`, their ratio below `aspect`; clip: what
    lies outside is cut off first, instead of being a fault. The crop is taken from the original picture, in whole
    pixels that cover the box, and resized by one factor into [min_pixels, max_pixels].
    """
    target = to_original(box, media)
    problem = _problem(target, media)
    if problem == "outside" and clip:
        target = _inside(target, media.window)
        problem = "outside" if target[2] <= target[0] or target[3] <= target[1] else None
    problem = problem or _problem(target, media, smallest, aspect)
    if problem:
        return None, problem
    part = covering(target, media.original)
    width, height = int(part[2] - part[0]), int(part[3] - part[1])
    size = fitted((width, height), min_pixels, max_pixels)
    return View(media.view.picture, part, None if size == (width, height) else size), "ok"


def covering(box: Sequence[float], size: Size) -> Box:
    """The whole pixels of a picture of `size` that a box touches; one in each direction at least."""
    left = min(max(math.floor(box[0] + _HAIR), 0), size[0] - 1)
    top = min(max(math.floor(box[1] + _HAIR), 0), size[1] - 1)
    right = max(min(math.ceil(box[2] - _HAIR), size[0]), left + 1)
    bottom = max(min(math.ceil(box[3] - _HAIR), size[1]), top + 1)
    return (float(left), float(top), float(right), float(bottom))


def _problem(target: Box, media: Media, smallest: float = 0.0, aspect: float = math.inf) -> str | None:
    """What is wrong with a box in original pixels, by the pixels that the model saw."""
    # Rounded: from one space into another and back again may move a side off a limit that it lies on.
    seen = [round(v, 6) for v in from_original(target, media, "seen")]
    return box_problem(seen, media.seen, smallest, aspect)


def _inside(box: Box, window: Box) -> Box:
    return (max(box[0], window[0]), max(box[1], window[1]), min(box[2], window[2]), min(box[3], window[3]))
