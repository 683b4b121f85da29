"""How often a skin winds around points: of a solid once inside, and nowhere outside.

The kernel's check finds no fault with a skin that crosses itself, nor with one hollow that stands in a solid ten times.
Both let the signed volume be anything, and an overlap that is divided by it: points tell.
"""

from __future__ import annotations

import numpy as np

from mmrl.solids.meshes import Mesh

_POINTS = 64  # of the skin, and as many of the bounding box
_OFF = 1e-5  # of the diagonal: how far beside the skin is inside, or outside
_CLOSE = 0.25  # from a whole number
_AT_ONCE = 200_000  # triangles times points


def windings(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """[n] how often the mesh winds around each point [n, 3]: the solid angle of its triangles over 4 pi.

    tan(angle / 2) of a triangle is det(a, b, c) / (|a||b||c| + (a.b)|c| + (b.c)|a| + (c.a)|b|): van Oosterom, Strackee.
    """
    corners, found = mesh.corners, []
    step = max(1, _AT_ONCE // max(1, len(corners)))
    for start in range(0, len(points), step):
        a, b, c = np.moveaxis(corners[None] - points[start : start + step, None, None], 2, 0)
        la, lb, lc = (np.linalg.norm(side, axis=-1) for side in (a, b, c))
        above = np.einsum("...i,...i->...", a, np.cross(b, c))
        ab, bc, ca = (np.einsum("...i,...i->...", p, q) for p, q in ((a, b), (b, c), (c, a)))
        found.append(np.arctan2(above, la * lb * lc + ab * lc + bc * la + ca * lb).sum(axis=1) / (2.0 * np.pi))
    return np.concatenate(found)


def crossed(mesh: Mesh, seed: int = 0) -> float:
    """The share of points at which a closed mesh is the skin of no solid: the larger of two.

    Of points of the skin, around which it must wind once just inside and not at all just outside; and of points
    anywhere in its bounding box, around which it must wind once or not at all. 0 for a mesh that is not closed.
    """
    normals = mesh.normals
    sizes = np.linalg.norm(normals, axis=1)
    if not len(sizes) or np.abs(normals.sum(axis=0)).max() > 1e-6 * sizes.sum():
        return 0.0
    rng = np.random.default_rng(seed)
    good = sizes > 1e-9 * sizes.max()
    whole = Mesh(mesh.vertices, mesh.triangles[good])
    low, high = mesh.vertices[mesh.triangles].min(axis=(0, 1)), mesh.vertices[mesh.triangles].max(axis=(0, 1))
    chosen = rng.choice(len(whole.triangles), size=_POINTS, p=sizes[good] / sizes[good].sum())
    middles = whole.corners[chosen].mean(axis=1)
    aside = _OFF * float(np.linalg.norm(high - low)) * whole.normals[chosen] / sizes[good][chosen][:, None]
    anywhere = rng.uniform(low, high, (_POINTS, 3))
    found = windings(mesh, np.concatenate([middles - aside, middles + aside, anywhere]))
    inside, outside, some = np.split(found, 3)
    skin = (np.abs(inside - 1.0) > _CLOSE) | (np.abs(outside) > _CLOSE)
    return float(max(skin.mean(), (np.minimum(np.abs(some), np.abs(some - 1.0)) > _CLOSE).mean()))
