"""What a detector finds, and what a detector is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    """An object in a picture.

    box: left, top, right, bottom in pixels, origin top left. score: 0 to 1, how sure the detector is. colour: where it
    tells it itself. mask: [height, width] of the picture, true where the object is, of one that segments.
    """

    box: Box
    label: str
    score: float
    colour: str | None = None
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def size(self) -> tuple[float, float]:
        return abs(self.box[2] - self.box[0]), abs(self.box[3] - self.box[1])

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"box": [round(v, 2) for v in self.box], "label": self.label, "score": self.score}
        return told if self.colour is None else {**told, "colour": self.colour}


class Detector(Protocol):
    """identity: what its findings depend on. names_colours: whether each thing that it finds has a colour."""

    identity: str
    names_colours: bool

    def detect(self, picture: Image.Image) -> list[Found]:
        """The objects of an RGB picture, in no particular order."""


class Colours(Protocol):
    """Says the colour of objects. `identity`: what it depends on."""

    identity: str

    def name(self, picture: Image.Image, label: str, objects: Sequence[Found]) -> list[str]:
        """One of reading.COLOURS for each object, which are all of one class."""
