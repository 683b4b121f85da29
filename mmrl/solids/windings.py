"""How often a skin winds around points: of a solid once inside, and nowhere outside.

The kernel's check finds no fault with a skin that crosses itself, nor with one hollow that stands in a solid ten times.
Both let the signed volume be anything, and an overlap that is divided by it: points tell.
"""

from __future__ import annotations

import numpy as np

from mmrl.solids.meshes import Mesh

_POINTS = 40  # of the skin, and as many of the bounding box
_OFF = 1e-5  # of the diagonal: how far beside the skin is inside, or outside
_CLOSE = 0.25  # from a whole number
_AT_ONCE = 200_000  # triangles times points


def windings(mesh: Mesh, points: np.ndarray) -> np.ndarray:
    """[n] how often the mesh winds around each point [n, 3]: the solid angle of its triangles over 4 pi.

    tan(angle / 2) of a triangle is det(a, b, c) / (|a||b||c| + (a.b)|c| + (b.c)|a| + (c.a)|b|): van Oosterom, Strackee.
    """
    middle = mesh.vertices.mean(axis=0)
    a, b, c = np.moveaxis(mesh.corners - middle, 1, 0)
    dots = [(x * y).sum(axis=1) for x, y in ((a, a), (b, b), (c, c), (a, b), (b, c), (c, a))]
    crosses = [np.cross(x, y) for x, y in ((a, b), (b, c), (c, a))]
    volumes, sums, found = (a * crosses[1]).sum(axis=1), np.add.reduce(crosses), []
    step = max(1, _AT_ONCE // max(1, len(a)))
    for start in range(0, len(points), step):
        p = points[start : start + step] - middle
        pp = (p * p).sum(axis=1)[:, None]
        # Of a triangle as the point p sees it: (a - p).(b - p) = a.b - (a + b).p + p.p, and so on.
        sides = ((a, a), (b, b), (c, c), (a, b), (b, c), (c, a))
        aa, bb, cc, ab, bc, ca = (dot - p @ (x + y).T + pp for dot, (x, y) in zip(dots, sides))
        la, lb, lc = (np.sqrt(np.maximum(square, 0.0)) for square in (aa, bb, cc))
        angles = np.arctan2(volumes - p @ sums.T, la * lb * lc + ab * lc + bc * la + ca * lb)
        found.append(angles.sum(axis=1) / (2.0 * np.pi))
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
