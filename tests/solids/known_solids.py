"""Solids whose numbers are known in closed form, for the tests."""

from __future__ import annotations

import math
from typing import Any


def kernel() -> Any:
    """CadQuery; skips the test where it is not installed."""
    import pytest

    return pytest.importorskip("cadquery", reason="pip install 'mmrl[cad]'")


def box(x: float, y: float, z: float, at: tuple[float, float, float] = (0, 0, 0)) -> Any:
    """Centred at `at`."""
    return kernel().Workplane().box(x, y, z).translate(at).val()


def sphere(radius: float, at: tuple[float, float, float] = (0, 0, 0)) -> Any:
    return kernel().Workplane().sphere(radius).translate(at).val()


def cylinder(radius: float, height: float, at: tuple[float, float, float] = (0, 0, 0)) -> Any:
    """On its foot."""
    return kernel().Workplane().circle(radius).extrude(height).translate(at).val()


def bracket() -> Any:
    """Of no symmetry: an L with a hole near one end. Volume 10 * 4 * 3 + 3 * 4 * 5 - 3 pi."""
    cq = kernel()
    foot = cq.Workplane().box(10, 4, 3, centered=False)
    wall = cq.Workplane().box(3, 4, 5, centered=False).translate((0, 0, 3))
    hole = cq.Workplane().circle(1).extrude(3).translate((7, 1.5, 0))
    return foot.union(wall).cut(hole).val()


# name -> (made, volume, area)
KNOWN = {
    "box": (lambda: box(10, 20, 30), 6000.0, 2200.0),
    "sphere": (lambda: sphere(5), 500 * math.pi / 3, 100 * math.pi),
    "cylinder": (lambda: cylinder(3, 7), 63 * math.pi, 60 * math.pi),
    "cone": (lambda: kernel().Solid.makeCone(4, 0, 9), 48 * math.pi, math.pi * 4 * (4 + math.hypot(4, 9))),
    "torus": (lambda: kernel().Solid.makeTorus(10, 3), 180 * math.pi**2, 120 * math.pi**2),
    # a cube of 10 with all edges rounded by 2: a cube of 6, six plates, twelve quarters of cylinders, a sphere
    "rounded": (
        lambda: kernel().Workplane().box(10, 10, 10).edges().fillet(2).val(),
        216 + 6 * 72 + 72 * math.pi + 32 * math.pi / 3,
        216 + 72 * math.pi + 16 * math.pi,
    ),
    "bracket": (bracket, 180 - 3 * math.pi, None),
}


def lens(radius: float, apart: float) -> float:
    """What two spheres of a radius have in common, their centres so far apart."""
    return math.pi * (4 * radius + apart) * (2 * radius - apart) ** 2 / 12
