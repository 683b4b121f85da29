"""What a family of mechanical parts is: how its numbers are drawn, said and built, and its volume in closed form.

Every part stands on the plane z = 0 with its outline centred on the z axis; lengths are whole millimetres. A program is
one chain of cadquery calls. Its numbers are those of the words, and what follows from them is written as a term
(`circle(34/2)`), so that nobody has to calculate to write it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Numbers = Mapping[str, int]
START = 'result = cq.Workplane("XY")'
ON_TOP = '.faces(">Z").workplane()'


@dataclass(frozen=True)
class Slips:
    """Two mistakes of beginners, which CAD-RL's judge is told to punish: a parameter that is another (a diameter where
    a radius is due), and a frame that is another (`box` is centred in z, too)."""

    parameter: bool = False
    frame: bool = False

    def circle(self, diameter: int) -> str:
        return f".circle({diameter})" if self.parameter else f".circle({diameter}/2)"

    def block(self, length: int, width: int, height: int) -> str:
        whole = f".box({length},{width},{height})"
        return whole if self.frame else f".rect({length},{width}).extrude({height})"


@dataclass(frozen=True)
class Family:
    """One shape with its numbers.

    draw: the numbers of a part, by name, in mm. code: its program, with mistakes where they are asked for. volume: in
    mm^3. size: of the bounding box along x, y and z, in mm; it is centred in x and y and begins at z = 0.
    words: ways to ask for it. slips: names of the mistakes that its program can hold.
    """

    draw: Callable[[random.Random], dict[str, int]]
    code: Callable[[Numbers, Slips], str]
    volume: Callable[[Numbers], float]
    size: Callable[[Numbers], tuple[float, float, float]]
    words: tuple[str, ...]
    slips: tuple[str, ...]


def disc(diameter: float, height: float) -> float:
    """Volume of a cylinder."""
    return math.pi / 4 * diameter**2 * height
