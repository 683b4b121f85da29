"""Solids as triangles, and their volumes by manifold3d: the way to go where the exact operations fail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrl.solids.properties import shapes_in

if TYPE_CHECKING:
    from OCP.TopoDS import TopoDS_Shape

FINE = 1e-3  # of the diagonal of the bounding box: how far triangles may be from a curved face
_STEEPEST = 0.5  # radians between two triangles of one


@dataclass(frozen=True)
class Mesh:
    """vertices: [V, 3] float64, in mm. triangles: [T, 3] int64, counter-clockwise from outside."""

    vertices: np.ndarray
    triangles: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """[T, 3, 3]: of each triangle its three points."""
        return self.vertices[self.triangles]

    @property
    def normals(self) -> np.ndarray:
        """[T, 3]: twice the area of each triangle, in the direction that it faces."""
        a, b, c = self.corners.transpose(1, 0, 2)
        return np.cross(b - a, c - a)

    @property
    def volume(self) -> float:
        """By the divergence theorem: the sum of the signed volumes of the tetrahedra from the origin."""
        a, b, c = self.corners.transpose(1, 0, 2)
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)


def triangulate(shape: TopoDS_Shape, far: float, angle: float) -> int:
    """Have the kernel put triangles on the faces of a shape; returns how many. See tessellated."""
    from OCP.BRep import BRep_Tool
    from OCP.BRepMesh import BRepMesh_IncrementalMesh
    from OCP.BRepTools import BRepTools
    from OCP.TopLoc import TopLoc_Location
    from OCP.TopoDS import TopoDS

    BRepTools.Clean_s(shape)  # the triangles of another fineness
    BRepMesh_IncrementalMesh(shape, far, False, angle, False)
    found = (BRep_Tool.Triangulation_s(TopoDS.Face_s(face), TopLoc_Location()) for face in shapes_in(shape, "FACE"))
    return sum(one.NbTriangles() for one in found if one is not None)


def tessellated(shape: TopoDS_Shape, far: float, angle: float) -> Mesh:
    """The faces of a shape as triangles, those of each face with vertices of their own.

    far: how far, in mm, they may be from a curved face. angle: in radians, the most between neighbours.
    """
    triangulate(shape, far, angle)
    return triangles_of(shape)


def triangles_of(shape: TopoDS_Shape) -> Mesh:
    """What `triangulate` put on a shape."""
    from OCP.BRep import BRep_Tool
    from OCP.TopAbs import TopAbs_Orientation
    from OCP.TopLoc import TopLoc_Location
    from OCP.TopoDS import TopoDS

    vertices: list[np.ndarray] = []
    triangles: list[np.ndarray] = []
    count = 0
    for face in map(TopoDS.Face_s, shapes_in(shape, "FACE")):
        place = TopLoc_Location()
        found = BRep_Tool.Triangulation_s(face, place)
        if found is None:
            continue
        move = place.Transformation()
        nodes = [found.Node(i).Transformed(move) for i in range(1, found.NbNodes() + 1)]
        corners = np.array([found.Triangle(i).Get() for i in range(1, found.NbTriangles() + 1)], dtype=np.int64)
        if face.Orientation() == TopAbs_Orientation.TopAbs_REVERSED:
            corners = corners[:, ::-1]
        vertices.append(np.array([(p.X(), p.Y(), p.Z()) for p in nodes]))
        triangles.append(corners - 1 + count)
        count += len(nodes)
    if not vertices:
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    return Mesh(np.concatenate(vertices), np.concatenate(triangles))


def joined(meshes: Iterable[Mesh]) -> Mesh:
    """Several as one, side by side."""
    meshes, starts, count = list(meshes), [], 0
    for mesh in meshes:
        starts.append(count)
        count += len(mesh.vertices)
    triangles = [mesh.triangles + start for mesh, start in zip(meshes, starts)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(triangles))


def steepness(share: float = FINE) -> float:
    """The angle, in radians, that goes with a fineness: a chord of r is r angle^2 / 8 from its arc."""
    return min(_STEEPEST, math.sqrt(10.0 * share))


def fineness(sides: Sequence[float], share: float = FINE) -> float:
    """How far triangles may be from the faces of a shape with a bounding box of these sides, in mm."""
    return share * math.hypot(*sides)


def manifold_of(meshes: Iterable[Mesh], tolerance: float) -> Any:
    """The union of closed meshes, a manifold3d.Manifold; None where one of them is not closed.

    Vertices within `tolerance` (mm) of each other along open edges are merged: faces that meet at a seam have each
    their own, which other libraries take for a hole.
    """
    import manifold3d

    parts = []
    for mesh in meshes:
        made = manifold3d.Mesh64(mesh.vertices, mesh.triangles.astype(np.uint64), tolerance=tolerance)
        made.merge()
        part = manifold3d.Manifold(made)
        if part.status() != manifold3d.Error.NoError or not part.volume() > 0:
            return None
        parts.append(part)
    return parts[0] if len(parts) == 1 else manifold3d.Manifold.batch_boolean(parts, manifold3d.OpType.Add)
