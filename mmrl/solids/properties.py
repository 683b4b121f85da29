"""Numbers of a shape: volume, area, centre of mass, inertia, bounding box, faces and edges. Lengths in mm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmrl.solids.nouns import Point

if TYPE_CHECKING:
    from OCP.GProp import GProp_GProps
    from OCP.TopoDS import TopoDS_Shape


def volume(shape: TopoDS_Shape) -> float:
    """Of its solids, by Gauss integration over their faces; one that is turned inside out counts below 0."""
    return float(_of_volume(shape).Mass())


def area(shape: TopoDS_Shape) -> float:
    from OCP.BRepGProp import BRepGProp
    from OCP.GProp import GProp_GProps

    props = GProp_GProps()
    BRepGProp.SurfaceProperties_s(shape, props)
    return float(props.Mass())


def mass_properties(shape: TopoDS_Shape) -> tuple[float, Point, np.ndarray]:
    """(volume, centre of mass, matrix of inertia [3, 3] about that centre), at density 1."""
    props = _of_volume(shape)
    centre, matrix = props.CentreOfMass(), props.MatrixOfInertia()
    inertia = np.array([[matrix.Value(i, j) for j in (1, 2, 3)] for i in (1, 2, 3)])
    return float(props.Mass()), (centre.X(), centre.Y(), centre.Z()), inertia


def bounding_box(shape: TopoDS_Shape, tight: bool = True) -> tuple[Point, Point]:
    """Its lowest and highest corner; infinite for a shape of nothing, or without an end.

    tight: otherwise one that may be larger around curved faces, and is found faster.
    """
    from OCP.Bnd import Bnd_Box
    from OCP.BRepBndLib import BRepBndLib

    box = Bnd_Box()
    if tight:
        BRepBndLib.AddOptimal_s(shape, box, False, False)
    else:
        BRepBndLib.Add_s(shape, box, False)
    if box.IsVoid() or box.IsOpen():
        return (np.inf, np.inf, np.inf), (np.inf, np.inf, np.inf)
    x, y, z, right, back, top = map(float, box.Get())
    return (x, y, z), (right, back, top)


def solids_in(shape: TopoDS_Shape) -> list[TopoDS_Shape]:
    """Its solids, one that stands in it twice at the same place once."""
    found: list[TopoDS_Shape] = []
    for solid in shapes_in(shape, "SOLID"):
        if not any(solid.IsSame(other) for other in found):
            found.append(solid)
    return found


def shapes_in(shape: TopoDS_Shape, kind: str, outside: str = "SHAPE") -> list[TopoDS_Shape]:
    """Its "SHELL"s, "FACE"s ... as often as they stand in it, but for those in an `outside` one."""
    from OCP.TopAbs import TopAbs_ShapeEnum
    from OCP.TopExp import TopExp_Explorer

    wanted, avoided = (getattr(TopAbs_ShapeEnum, f"TopAbs_{name}") for name in (kind, outside))
    explorer, found = TopExp_Explorer(shape, wanted, avoided), []
    while explorer.More():
        found.append(explorer.Current())
        explorer.Next()
    return found


def counted(shape: TopoDS_Shape, kind: str) -> int:
    """How many different "FACE"s, "EDGE"s, "SHELL"s ... it has; a face that two solids share is one."""
    from OCP.TopAbs import TopAbs_ShapeEnum
    from OCP.TopExp import TopExp
    from OCP.TopTools import TopTools_IndexedMapOfShape

    found = TopTools_IndexedMapOfShape()
    TopExp.MapShapes_s(shape, getattr(TopAbs_ShapeEnum, f"TopAbs_{kind}"), found)
    return int(found.Extent())


def kind_of_shape(shape: TopoDS_Shape) -> str:
    """What it is, in a word: "compound", "shell", "wire" ..."""
    return str(shape.ShapeType()).rpartition("_")[2].lower()


def _of_volume(shape: TopoDS_Shape) -> GProp_GProps:
    from OCP.BRepGProp import BRepGProp
    from OCP.GProp import GProp_GProps

    props = GProp_GProps()
    BRepGProp.VolumeProperties_s(shape, props)
    return props
