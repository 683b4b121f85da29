"""How two bodies are laid over each other before they are compared. Each paper has its own way; the name says which."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrl.solids.bodies import Body
from mmrl.solids.checks import Checked

if TYPE_CHECKING:
    from OCP.gp import gp_Trsf

ABSOLUTE, BOUNDING_BOX, INERTIA = "absolute", "bounding_box", "inertia"
# Turns about the principal axes: two of them may look the other way, for a mirror image is another shape.
TURNS = (np.diag([1.0, 1, 1]), np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1]))


class Placement:
    """x -> scale * rotation @ (x - centre) + offset. rotation: [3, 3], orthogonal, of determinant 1."""

    def __init__(self, centre: np.ndarray, scale: float, rotation: np.ndarray, offset: float = 0.0) -> None:
        self.centre, self.scale, self.rotation, self.offset = centre, scale, rotation, offset

    def points(self, points: np.ndarray) -> np.ndarray:
        """[n, 3], placed."""
        return self.scale * (points - self.centre) @ self.rotation.T + self.offset

    def back(self, points: np.ndarray) -> np.ndarray:
        """[n, 3], from where they were placed to where they were."""
        return (points - self.offset) @ self.rotation / self.scale + self.centre

    def body(self, body: Body) -> Body:
        """The body, placed; its geometry is moved, not approximated."""
        from OCP.BRepBuilderAPI import BRepBuilderAPI_Transform

        move = self._kernels()

        def moved(shapes: Any) -> tuple:
            return tuple(BRepBuilderAPI_Transform(shape, move, True).Shape() for shape in shapes)

        given = body.given
        volumes = tuple(size * self.scale**3 for size in given.volumes)
        checked = Checked(moved(given.solids), volumes, given.turned, given.loose)
        return Body(checked, None if body.parts is None else moved(body.parts))

    def _kernels(self) -> gp_Trsf:
        from OCP.gp import gp_Trsf, gp_Vec

        shift = self.offset - self.scale * self.rotation @ self.centre
        rows = np.hstack([self.rotation, shift[:, None]])
        move = gp_Trsf()
        move.SetValues(*(float(value) for value in rows.flatten()))
        move.SetScaleFactor(self.scale)
        move.SetTranslationPart(gp_Vec(*map(float, shift)))
        return move


# Of the first body and of the second, None where it stays: several to be tried.
Placements = list[tuple[Placement | None, Placement | None]]
Policy = Callable[[Body, Body], Placements]


def placed(points: np.ndarray, placement: Placement | None) -> np.ndarray:
    """[n, 3] points, placed where there is a placement."""
    return points if placement is None else placement.points(points)


def absolute(ours: Body, theirs: Body) -> Placements:
    """As they are, in mm: position, direction and size all count."""
    return [(None, None)]


def bounding_box(ours: Body, theirs: Body) -> Placements:
    """Each by the middle of its bounding box and its longest side into the unit box around (0.5, 0.5, 0.5): cadrille.

    Position and size do not count, direction does.
    """
    return [(_boxed(ours), _boxed(theirs))]


def inertia(ours: Body, theirs: Body) -> Placements:
    """Each by its centre of mass, the size sqrt(sum of |principal moments| / mass) and its principal axes, in four
    turns of which the best counts: CAD-Coder of Doris et al.

    Neither position, direction nor size count. Of a body with two equal moments (a cube, a cylinder) the axes are not
    unique: turned, it may not meet itself.
    """
    return [(_principal(ours, turn), _principal(theirs, TURNS[0])) for turn in TURNS]


POLICIES: dict[str, Policy] = {ABSOLUTE: absolute, BOUNDING_BOX: bounding_box, INERTIA: inertia}


def _boxed(body: Body) -> Placement:
    low, high = map(np.array, body.box)
    return Placement((low + high) / 2.0, 1.0 / float((high - low).max()), np.eye(3), 0.5)


def _principal(body: Body, turn: np.ndarray) -> Placement:
    mass, centre, matrix = body.mass
    moments, axes = np.linalg.eigh((matrix + matrix.T) / 2.0)
    axes[:, 2] *= np.linalg.det(axes)  # right-handed
    return Placement(np.array(centre), 1.0 / math.sqrt(float(np.abs(moments).sum()) / mass), turn @ axes.T)
