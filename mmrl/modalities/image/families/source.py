"""A picture that a prompt shows, as families of edit pipelines are given it."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Source:
    """One picture; two are equal that show the same. digest: a name for what it shows. image: RGB."""

    digest: str
    image: Image.Image = field(compare=False, repr=False)
