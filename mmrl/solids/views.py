"""What the report draws of an answer and its target: what they have together and what apart, as small meshes.

By the exact operations, so that faces which both have leave no skin between them; by meshes where those fail.
"""

from __future__ import annotations

from typing import Any

from mmrl.solids.bodies import Body
from mmrl.solids.booleans import BooleanFailed, parted
from mmrl.solids.measures import Options, laid
from mmrl.solids.meshes import Mesh, fineness, joined
from mmrl.solids.nouns import INVALID, Refused
from mmrl.solids.overlaps import EXACT, MESH
from mmrl.solids.shown import Solid, mesh_of

NOTHING, TOO_FINE = "nothing", "too_fine"  # statuses of a part: there is none, or it takes more triangles than are kept
PARTS = ("answer", "common", "missing", "extra")
_COARSE = 0.01  # fineness of meshes that are cut


def viewed(ours: Body, theirs: Body, options: Options, most: int) -> dict[str, Any]:
    """{"answer", "common", "missing", "extra": records of a Solid, "way", "alignment"}, each of at most `most`
    triangles.

    missing: what the target has and the answer has not; extra: the other way round. All where the target is, in mm: an
    answer that is compared in another place or size is drawn where the alignment lays it. Raises Refused where no way
    is left.
    """
    answer, target, placement = laid(ours, theirs, options)
    sides = [max(pair) for pair in zip(answer.sides, target.sides)]
    found: dict[str, Mesh | None] = {"answer": mesh_of(answer.shapes, sides, most)}
    way = MESH
    try:
        if options.way == MESH or answer.parts is None or target.parts is None:
            raise BooleanFailed("by meshes")
        both, extra, missing = parted(answer.parts, target.parts)
        for name, shapes in (("common", both), ("missing", missing), ("extra", extra)):
            found[name] = mesh_of(shapes, sides, most) if shapes else _nothing()
        way = EXACT
    except BooleanFailed:
        found |= _by_mesh(answer, target, fineness(sides, _COARSE))
    told: dict[str, Any] = {"way": way, "alignment": options.alignment}
    for name in PARTS:
        mesh = found[name]
        if mesh is None or len(mesh.triangles) > most:
            told[name] = Solid.none(TOO_FINE).record()
        elif not len(mesh.triangles):
            told[name] = Solid.none(NOTHING).record()
        else:
            vertices = mesh.vertices if placement is None else placement.back(mesh.vertices)
            told[name] = Solid(vertices, mesh.triangles).record()
    return told


def _nothing() -> Mesh:
    none = Solid.none(NOTHING)
    return Mesh(none.vertices, none.triangles)


def _by_mesh(answer: Body, target: Body, far: float) -> dict[str, Mesh]:
    ours, theirs = answer.manifold(_COARSE), target.manifold(_COARSE)
    if ours is None or theirs is None:
        raise Refused(INVALID, "no closed mesh can be made of it")
    parts = {"common": ours ^ theirs, "missing": theirs - ours, "extra": ours - theirs}
    return {name: _without_skins(part, far) for name, part in parts.items()}


def _without_skins(part: Any, far: float) -> Mesh:
    """Its pieces but for those thinner than `far`: where a curved face is both's, their triangles differ by so much.

    A hollow is a piece of its own, of a volume below 0.
    """
    kept = []
    for piece in part.simplify(far).decompose():
        if 2 * abs(piece.volume()) > far * piece.surface_area():
            made = piece.to_mesh64()
            kept.append(Mesh(made.vert_properties[:, :3].copy(), made.tri_verts.astype("int64")))
    return joined(kept) if kept else _nothing()
