"""A body: solids that were checked, as one. What was measured of it is measured once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrl.solids.booleans import BooleanFailed, united
from mmrl.solids.checks import Checked, checked
from mmrl.solids.meshes import FINE, Mesh, fineness, joined, manifold_of, steepness, tessellated
from mmrl.solids.nouns import INVALID, Limits, Point, Refused
from mmrl.solids.properties import area, bounding_box, counted, mass_properties, volume

if TYPE_CHECKING:
    from OCP.TopoDS import TopoDS_Shape


class Body:
    """One or more solids as their union, so that what several fill together counts once.

    given: the solids, as they were checked. parts: solids of the union, which overlap nowhere; None where the kernel
    could not unite them, and only the mesh has their union.
    """

    def __init__(self, given: Checked, parts: Sequence[TopoDS_Shape] | None) -> None:
        self.given, self.parts = given, parts

    @classmethod
    def of(cls, shape: TopoDS_Shape | None, limits: Limits | None = None) -> Body:
        """Raises Refused for a shape that is no solid, see mmrl.solids.checks."""
        given = checked(shape, limits)
        try:
            return cls(given, united(given.solids, given.volumes))
        except BooleanFailed as error:
            body = cls(given, None)
            if body.manifold() is None:
                raise Refused(INVALID, f"of its {len(given.solids)} solids: {error}") from None
            return body

    @property
    def shapes(self) -> Sequence[TopoDS_Shape]:
        """The parts, or the solids that could not be united."""
        return self.given.solids if self.parts is None else self.parts

    @functools.cached_property
    def shape(self) -> TopoDS_Shape:
        """The shapes as one compound, or the only one."""
        return self.shapes[0] if len(self.shapes) == 1 else compound(self.shapes)

    @functools.cached_property
    def volume(self) -> float:
        """mm3, of the union."""
        if self.parts is None:
            return float(self.manifold().volume())
        return sum(map(volume, self.parts)) if len(self.parts) > 1 else volume(self.parts[0])

    @functools.cached_property
    def mass(self) -> tuple[float, Point, np.ndarray]:
        """See mass_properties."""
        return mass_properties(self.shape)

    @functools.cached_property
    def box(self) -> tuple[Point, Point]:
        """Tight, see bounding_box."""
        return bounding_box(self.shape)

    @property
    def sides(self) -> list[float]:
        return [b - a for a, b in zip(*self.box)]

    def mesh(self, share: float = FINE) -> Mesh:
        """Of all its shapes. share: fineness, of the diagonal."""
        return joined(self._meshes(share))

    def manifold(self, share: float = FINE) -> Any:
        """The union as a manifold3d.Manifold; None where that fails."""
        return manifold_of(self._meshes(share), 0.01 * fineness(self.sides, share))

    def _meshes(self, share: float) -> list[Mesh]:
        far, angle = fineness(self.sides, share), steepness(share)
        return [tessellated(shape, far, angle) for shape in self.shapes]

    def facts(self) -> dict[str, Any]:
        """What is told of it, as JSON: mm, mm2, mm3."""
        _, centre, inertia = self.mass
        return {
            "volume": self.volume,
            "area": area(self.shape),
            "box": [list(self.box[0]), list(self.box[1])],
            "centre": list(centre),
            "inertia": inertia.tolist(),
            "solids": len(self.given.solids),
            "parts": len(self.shapes),
            "faces": counted(self.shape, "FACE"),
            "edges": counted(self.shape, "EDGE"),
            "turned": self.given.turned,
            "loose": self.given.loose,
        }


def compound(shapes: Sequence[TopoDS_Shape]) -> TopoDS_Shape:
    """Several shapes as one, which changes none of them."""
    from OCP.BRep import BRep_Builder
    from OCP.TopoDS import TopoDS_Compound

    made, builder = TopoDS_Compound(), BRep_Builder()
    builder.MakeCompound(made)
    for shape in shapes:
        builder.Add(made, shape)
    return made
