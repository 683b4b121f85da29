"""What solids have together, and what they are as one, by the kernel's boolean operations: exact where they succeed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrl.solids.nouns import one_line
from mmrl.solids.properties import bounding_box, solids_in, volume

if TYPE_CHECKING:
    from OCP.TopoDS import TopoDS_Shape

TOLERANCE = 1e-6  # relative, of volumes that are to be equal
_SLACK = 1e-3  # of the longest side: how far the boxes of solids and of their union may be apart
PARTED = 1e-3  # likewise, of parts that are only looked at


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
    (low, high), (lower, higher) = _reach(made), _reach(solids)
    if np.abs(np.concatenate([low - lower, high - higher])).max() > _SLACK * np.abs(higher - lower).max():
        raise BooleanFailed("their union reaches elsewhere than they do")
    return made


def _reach(solids: Sequence[TopoDS_Shape]) -> tuple[np.ndarray, np.ndarray]:
    """The bounding box of all of them."""
    lows, highs = zip(*map(bounding_box, solids)) if solids else ([(np.inf,) * 3], [(np.inf,) * 3])
    return np.min(lows, axis=0), np.max(highs, axis=0)


def parted(
    ours: Sequence[TopoDS_Shape], theirs: Sequence[TopoDS_Shape]
) -> tuple[list[TopoDS_Shape], list[TopoDS_Shape], list[TopoDS_Shape]]:
    """The solids of what both have, of what only `ours` have and of what only `theirs` have; they are intersected once.

    Each side overlaps nowhere. Raises BooleanFailed, also where the parts do not sum up to the sides.
    """
    from OCP.BOPAlgo import BOPAlgo_PaveFiller
    from OCP.BRepAlgoAPI import BRepAlgoAPI_Common, BRepAlgoAPI_Cut

    crossings = BOPAlgo_PaveFiller()
    crossings.SetArguments(_listed([*ours, *theirs]))
    crossings.SetRunParallel(False)
    crossings.SetNonDestructive(True)
    try:
        crossings.Perform()
    except Exception as error:  # of the kernel's, of many kinds
        raise BooleanFailed(f"the kernel cannot intersect them: {one_line(error)}") from None
    both = _built(BRepAlgoAPI_Common(crossings), ours, theirs, "cannot intersect them")
    only_ours = _built(BRepAlgoAPI_Cut(crossings), ours, theirs, "cannot cut them")
    only_theirs = _built(BRepAlgoAPI_Cut(crossings), theirs, ours, "cannot cut them")
    shared = sum(map(volume, both))
    for side, rest in ((ours, only_ours), (theirs, only_theirs)):
        whole, parts = sum(map(volume, side)), shared + sum(map(volume, rest))
        if not abs(parts - whole) <= PARTED * whole:
            raise BooleanFailed(f"its parts have {parts:.6g} mm3 and the whole {whole:.6g}")
    return both, only_ours, only_theirs


def _listed(shapes: Sequence[TopoDS_Shape]) -> Any:
    from OCP.TopTools import TopTools_ListOfShape

    found = TopTools_ListOfShape()
    for shape in shapes:
        found.Append(shape)
    return found


def _built(
    operation: Any, ours: Sequence[TopoDS_Shape], theirs: Sequence[TopoDS_Shape], failing: str
) -> list[TopoDS_Shape]:
    operation.SetArguments(_listed(ours))
    operation.SetTools(_listed(theirs))
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
