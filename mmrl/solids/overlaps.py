"""Intersection over union of two bodies: exact, or by their meshes where the exact way fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmrl.solids.bodies import Body
from mmrl.solids.booleans import TOLERANCE, BooleanFailed, common
from mmrl.solids.meshes import FINE
from mmrl.solids.nouns import INVALID, Refused
from mmrl.solids.properties import bounding_box, volume

if TYPE_CHECKING:
    from OCP.TopoDS import TopoDS_Shape

EXACT, MESH = "exact", "mesh"
_INSIDE = 1e-4  # of a side: how far a box may reach out of another that has it inside
_DOUBTFUL = 1e-3  # of the smaller volume: what a mesh has to have in common where the exact way found nothing


@dataclass(frozen=True)
class Overlap:
    """way: "exact" or "mesh". why: for what reason it was the mesh. iou: in [0, 1]. Volumes in mm3."""

    iou: float
    common: float
    union: float
    way: str = EXACT
    why: str = ""


def overlap(ours: Body, theirs: Body, way: str | None = None, share: float = FINE) -> Overlap:
    """|A and B| / |A or B|, of the unions of both bodies.

    way: "exact" raises Refused where the kernel fails, "mesh" goes that way at once; None tries the exact one first.
    share: fineness of the meshes, of the diagonal. Raises Refused where no way is left.
    """
    if way == MESH:
        return by_mesh(ours, theirs, share, "asked for")
    try:
        found = exact(ours, theirs)
    except BooleanFailed as error:
        if way == EXACT:
            raise Refused(INVALID, f"the exact way failed: {error}") from None
        return by_mesh(ours, theirs, share, str(error))
    nothing = found.common <= TOLERANCE * min(ours.volume, theirs.volume)
    # The kernel also finds nothing where it fails without a word: a mesh has to confirm it.
    if nothing and way is None and not _boxes_apart(ours.box, theirs.box):
        return _confirmed_nothing(found, ours, theirs, share)
    return found


def exact(ours: Body, theirs: Body) -> Overlap:
    """By boundary representation. Raises BooleanFailed where the kernel fails, or its result is not to be believed."""
    if ours.parts is None or theirs.parts is None:
        raise BooleanFailed("solids that the kernel cannot unite")
    if _boxes_apart(ours.box, theirs.box):
        return _of(0.0, ours.volume, theirs.volume, EXACT)
    parts = common(ours.parts, theirs.parts)
    shared, smaller = sum(map(volume, parts)), min(ours.volume, theirs.volume)
    if not -TOLERANCE * smaller <= shared <= (1 + TOLERANCE) * smaller:
        raise BooleanFailed(f"what they have in common, {shared:.6g} mm3, is not between 0 and the smaller of them")
    if not _inside(parts, ours, theirs):
        raise BooleanFailed("what they have in common reaches out of them")
    return _of(shared, ours.volume, theirs.volume, EXACT)


def by_mesh(ours: Body, theirs: Body, share: float = FINE, why: str = "") -> Overlap:
    """By triangles. Raises Refused where one of the bodies has no closed mesh."""
    first, second = ours.manifold(share), theirs.manifold(share)
    if first is None or second is None:
        raise Refused(INVALID, f"no closed mesh can be made of it{f', and {why}' if why else ''}")
    return _of(float((first ^ second).volume()), float(first.volume()), float(second.volume()), MESH, why)


def _of(shared: float, ours: float, theirs: float, way: str, why: str = "") -> Overlap:
    """|A or B| = |A| + |B| - |A and B|, with what rounding left cut off."""
    shared = min(max(shared, 0.0), ours, theirs)
    union = ours + theirs - shared
    iou = shared / union
    assert 0.0 <= iou <= 1.0, (shared, ours, theirs)
    return Overlap(iou, shared, union, way, why)


def _confirmed_nothing(found: Overlap, ours: Body, theirs: Body, share: float) -> Overlap:
    try:
        meshes = by_mesh(ours, theirs, share, "the kernel finds nothing in common, and meshes do")
    except Refused:
        return found
    return meshes if meshes.common > _DOUBTFUL * min(ours.volume, theirs.volume) else found


def _boxes_apart(a: tuple, b: tuple) -> bool:
    return any(max(a[0][k], b[0][k]) >= min(a[1][k], b[1][k]) for k in range(3))


def _inside(parts: Sequence[TopoDS_Shape], ours: Body, theirs: Body) -> bool:
    """Whether the boxes of the parts lie in those of both bodies."""
    return all(_within(part, ours, theirs, tight=False) or _within(part, ours, theirs, tight=True) for part in parts)


def _within(part: TopoDS_Shape, ours: Body, theirs: Body, tight: bool) -> bool:
    low, high = bounding_box(part, tight)
    for body in (ours, theirs):
        slack = [_INSIDE * side for side in body.sides]
        if any(low[k] < body.box[0][k] - slack[k] or high[k] > body.box[1][k] + slack[k] for k in range(3)):
            return False
    return True
