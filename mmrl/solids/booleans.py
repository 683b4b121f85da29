"""What solids have together, and what they are as one, by the kernel's boolean operations: exact where they succeed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmrl.solids.nouns import one_line
from mmrl.solids.properties import solids_in, volume

if TYPE_CHECKING:
    from OCP.TopoDS import TopoDS_Shape

TOLERANCE = 1e-6  # relative, of volumes that are to be equal


class BooleanFailed(Exception):
    """The kernel could not do it, or its result cannot be true. The message says why, in words."""


def common(ours: Sequence[TopoDS_Shape], theirs: Sequence[TopoDS_Shape]) -> list[TopoDS_Shape]:
    """The solids in which something of `ours` and of `theirs` is; [] for none. Raises BooleanFailed."""
    from OCP.BRepAlgoAPI import BRepAlgoAPI_Common

    return _built(BRepAlgoAPI_Common(), ours, theirs, "cannot intersect them")


def united(solids: Sequence[TopoDS_Shape], volumes: Sequence[float]) -> list[TopoDS_Shape]:
    """Solids that overlap nowhere and fill what the given ones fill.

    The union is at least as large as the largest of them and at most their sum. Raises BooleanFailed.
    """
    from OCP.BRepAlgoAPI import BRepAlgoAPI_Fuse

    if len(solids) == 1:
        return list(solids)
    made = _built(BRepAlgoAPI_Fuse(), solids[:1], solids[1:], "cannot unite them")
    size, slack = sum(map(volume, made)), TOLERANCE * sum(volumes)
    if not max(volumes) - slack <= size <= sum(volumes) + slack:
        raise BooleanFailed(f"their union, {size:.6g} mm3, is not between the largest of them and their sum")
    return made


def _built(
    operation: Any, ours: Sequence[TopoDS_Shape], theirs: Sequence[TopoDS_Shape], failing: str
) -> list[TopoDS_Shape]:
    from OCP.TopTools import TopTools_ListOfShape

    arguments, tools = TopTools_ListOfShape(), TopTools_ListOfShape()
    for shapes, those in ((ours, arguments), (theirs, tools)):
        for shape in shapes:
            those.Append(shape)
    operation.SetArguments(arguments)
    operation.SetTools(tools)
    operation.SetRunParallel(False)
    operation.SetNonDestructive(True)  # what is measured again stays as it is
    try:
        operation.Build()
        done = operation.IsDone()
    except Exception as error:  # of the kernel's, of many kinds
        raise BooleanFailed(f"the kernel {failing}: {one_line(error)}") from None
    if not done:
        raise BooleanFailed(f"the kernel {failing}")
    return solids_in(operation.Shape())
