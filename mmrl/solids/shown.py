"""A solid as a small mesh: what the report shows of one, stored as numbers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from OCP.TopoDS import TopoDS_Shape

    from mmrl.solids.bodies import Body
    from mmrl.solids.meshes import Mesh

MOST = 4000  # triangles
_STEPS = 65535  # of the grid that vertices are rounded to, along the longest side
_WAYS = ((0.003, 0.35), (0.01, 0.6), (0.03, 1.2))  # fineness: of the diagonal, and radians


@dataclass(frozen=True, eq=False)
class Solid:
    """vertices: [V, 3] float64 in mm. triangles: [T, 3] int64, counter-clockwise from outside. status: "ok", or why
    there is none, and then both are empty."""

    vertices: np.ndarray
    triangles: np.ndarray
    status: str = "ok"

    @classmethod
    def none(cls, status: str) -> Solid:
        """Of a program that made no solid."""
        return cls(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64), status)

    def record(self) -> dict[str, Any]:
        """It as JSON: vertices as 16-bit numbers of a grid over its bounding box, both tables in base64."""
        if not len(self.vertices):
            return {"status": self.status}
        low = self.vertices.min(axis=0)
        step = max(float((self.vertices.max(axis=0) - low).max()), 1e-12) / _STEPS
        grid = np.rint((self.vertices - low) / step).astype("<u2")
        grid, places = np.unique(grid, axis=0, return_inverse=True)
        triangles = places.reshape(-1)[self.triangles].astype("<u2" if len(grid) < 65536 else "<u4")
        return {
            "status": self.status,
            "low": low.tolist(),
            "step": step,
            "vertices": base64.b64encode(grid.tobytes()).decode(),
            "triangles": base64.b64encode(triangles.tobytes()).decode(),
            "wide": triangles.itemsize == 4,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Solid:
        """What `record` told. Raises ValueError for anything else."""
        if "vertices" not in record:
            return cls.none(str(record.get("status", "")))
        try:
            grid = np.frombuffer(base64.b64decode(record["vertices"], validate=True), "<u2").reshape(-1, 3)
            kind = "<u4" if record["wide"] else "<u2"
            triangles = np.frombuffer(base64.b64decode(record["triangles"], validate=True), kind).reshape(-1, 3)
            vertices = np.asarray(record["low"], dtype=np.float64) + grid * float(record["step"])
        except (LookupError, TypeError, ValueError, binascii.Error) as error:
            raise ValueError(f"no record of a solid: {type(error).__name__}") from None
        if vertices.shape != (len(grid), 3) or not np.isfinite(vertices).all() or triangles.max(initial=0) >= len(grid):
            raise ValueError("no record of a solid: its numbers do not fit together")
        return cls(vertices, triangles.astype(np.int64), str(record["status"]))


def record_of(body: Body, most: int = MOST) -> dict[str, Any] | None:
    """The record of a body's mesh, as fine as `most` triangles allow; None for 0, and for one that takes more."""
    mesh = mesh_of(body.shapes, body.sides, most) if most else None
    return None if mesh is None else Solid(mesh.vertices, mesh.triangles).record()


def mesh_of(shapes: Sequence[TopoDS_Shape], sides: Sequence[float], most: int = MOST) -> Mesh | None:
    """Shapes as one mesh, as fine as `most` triangles allow; None where it takes more. sides: of the bounding box of
    what they belong to, by which the fineness goes."""
    from mmrl.solids.meshes import fineness, joined, triangles_of, triangulate

    for share, angle in _WAYS:
        far = fineness(sides, share)
        if sum(triangulate(shape, far, angle) for shape in shapes) <= most:
            return joined(map(triangles_of, shapes))
    return None
