"""A picture that a prompt shows, as families of edit pipelines are given it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Source:
    """One picture; two are equal that show the same. digest: a name for what it shows. image: RGB."""

    digest: str
    image: Image.Image = field(compare=False, repr=False)


def scaled(size: tuple[int, int], area: int, step: int) -> tuple[int, int]:
    """(width, height) in multiples of `step`, about as wide to high as `size`, and of `area` pixels at most."""
    shrink = min(1.0, math.sqrt(area / (size[0] * size[1])))
    width, height = (max(step, int(side * shrink) // step * step) for side in size)
    return width, height
