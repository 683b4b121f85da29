"""Whether a shape is one or more solids that can be measured: closed, turned outside, whole, finite, of sane size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from mmrl.solids.meshes import FINE, fineness, steepness, tessellated
from mmrl.solids.nouns import INVALID, NO_RESULT, NOT_SOLID, TOO_LARGE, Limits, Refused
from mmrl.solids.properties import bounding_box, counted, kind_of_shape, shapes_in, solids_in, volume
from mmrl.solids.windings import crossed

if TYPE_CHECKING:
    from OCP.TopoDS import TopoDS_Shape

_WAYS = (30 * FINE, FINE)  # fineness of the meshes on which crossings are looked for
_FEW = 0.05  # of points: chords of curved faces may cross where no face does
# Of the diagonal: with a larger tolerance boolean operations take what is apart for the same.
_LOOSEST = 0.01


@dataclass(frozen=True)
class Checked:
    """Solids that passed. turned: how many were inside out. loose: shells, faces, wires beside them, which count
    nothing."""

    solids: tuple[TopoDS_Shape, ...]
    volumes: tuple[float, ...]
    turned: int = 0
    loose: int = 0


def checked(shape: TopoDS_Shape | None, limits: Limits | None = None) -> Checked:
    """The solids of a shape. Raises Refused where there is none, or one of them cannot be measured.

    A solid that is inside out (its faces look inwards, its volume is below 0) is turned, for nothing but its sign is
    wrong; that is told. One with a hole in its skin is refused, and so is a skin that nobody made a solid.
    """
    limits = limits or Limits()
    if shape is None or shape.IsNull():
        raise Refused(NO_RESULT, "there is no shape")
    found = solids_in(shape)
    if not found:
        raise Refused(NOT_SOLID, f"a {_what(shape)}, and no solid")
    if len(found) > limits.solids:
        raise Refused(TOO_LARGE, f"{len(found)} solids; at most {limits.solids} are looked at")
    if (faces := counted(shape, "FACE")) > limits.faces:
        raise Refused(TOO_LARGE, f"{faces} faces; at most {limits.faces} are looked at")
    passed = [_passed(solid, limits) for solid in found]
    turned = sum(solid is not before for (solid, _), before in zip(passed, found))
    loose = _loose(shape)
    return Checked(tuple(solid for solid, _ in passed), tuple(size for _, size in passed), turned, loose)


def is_closed(solid: TopoDS_Shape) -> bool:
    """Whether it has a skin, and no edge of it has a face on one side only."""
    from OCP.BRep import BRep_Tool

    shells = shapes_in(solid, "SHELL")
    return bool(shells) and all(BRep_Tool.IsClosed_s(shell) for shell in shells)


def is_valid(shape: TopoDS_Shape) -> bool:
    """Whether the kernel's own check finds nothing wrong. It looks at each face and how they meet, not whether faces
    far apart cross each other."""
    from OCP.BRepCheck import BRepCheck_Analyzer

    return bool(BRepCheck_Analyzer(shape).IsValid())


def tolerance(shape: TopoDS_Shape) -> float:
    """How far, in mm, what should meet in it may be apart: the largest that the kernel is told."""
    from OCP.ShapeAnalysis import ShapeAnalysis_ShapeTolerance

    return float(ShapeAnalysis_ShapeTolerance().Tolerance(shape, 1))


def _passed(solid: TopoDS_Shape, limits: Limits) -> tuple[TopoDS_Shape, float]:
    """The solid, turned where it was inside out, and its volume."""
    low, high = bounding_box(solid, tight=False)
    sides = [b - a for a, b in zip(low, high)]
    if not all(map(math.isfinite, (*low, *high, *sides))):
        raise Refused(INVALID, "its bounding box is not finite")
    if max(*map(abs, low), *map(abs, high)) > limits.extent:
        raise Refused(
            TOO_LARGE, f"it reaches {max(*map(abs, low), *map(abs, high)):.3g} mm; {limits.extent:g} is the limit"
        )
    if min(sides) < limits.thickness:
        raise Refused(INVALID, f"it is {min(sides):.3g} mm thick; {limits.thickness:g} is the limit")
    if not is_closed(solid):
        raise Refused(INVALID, "its skin is open")
    if tolerance(solid) > _LOOSEST * math.hypot(*sides):
        raise Refused(INVALID, f"its faces meet within {tolerance(solid):.3g} mm only")
    if not is_valid(solid):
        raise Refused(INVALID, "the kernel's check finds it broken")
    size = volume(solid)
    if size < 0:
        solid, size = _turned(solid)
    if not (math.isfinite(size) and size > limits.thickness**3):
        raise Refused(INVALID, f"its volume is {size:.3g} mm3")
    if size > 1.001 * math.prod(sides):  # of what is folded over itself
        raise Refused(INVALID, "its volume is larger than its bounding box")
    if _crosses(solid, sides):
        raise Refused(INVALID, "its skin crosses itself, or encloses the same twice")
    return solid, size


def _crosses(solid: TopoDS_Shape, sides: list[float]) -> bool:
    """Whether more than a few points of it say so; by a finer mesh, too, for walls that are thinner than the first."""
    return all(crossed(tessellated(solid, fineness(sides, share), steepness(share))) > _FEW for share in _WAYS)


def _turned(solid: TopoDS_Shape) -> tuple[TopoDS_Shape, float]:
    from OCP.BRepLib import BRepLib
    from OCP.TopAbs import TopAbs_Orientation
    from OCP.TopoDS import TopoDS

    turned = TopoDS.Solid_s(solid.Oriented(TopAbs_Orientation.TopAbs_FORWARD))
    BRepLib.OrientClosedSolid_s(turned)
    return turned, volume(turned)


def _what(shape: TopoDS_Shape) -> str:
    """What a shape without solids is, in words."""
    kinds = [kind for kind in ("SHELL", "FACE", "WIRE", "EDGE", "VERTEX") if counted(shape, kind)]
    kind = kind_of_shape(shape)
    if kind not in ("compound", "compsolid"):
        return kind
    return f"compound of {kinds[0].lower()}s" if kinds else "compound of nothing"


def _loose(shape: TopoDS_Shape) -> int:
    """Shells, faces, wires and edges that belong to no solid."""
    kinds = ("SOLID", "SHELL", "FACE", "WIRE", "EDGE")
    return sum(len(shapes_in(shape, kind, inside)) for inside, kind in pairwise(kinds))
