"""Points on surfaces, and the Chamfer distance between two sets of them."""

from __future__ import annotations

import numpy as np

from mmrl.solids.meshes import Mesh

SQUARED, PLAIN = "squared", "plain"
FORMS = (SQUARED, PLAIN)


def sampled(mesh: Mesh, count: int, seed: int) -> np.ndarray:
    """[count, 3] points on the triangles, uniform over their area; the same for the same seed.

    A point of a triangle is a + (1 - sqrt(u)) (b - a) + sqrt(u) v (c - a) with u, v uniform in [0, 1).
    """
    rng = np.random.default_rng(seed)
    areas = np.linalg.norm(mesh.normals, axis=1)
    chosen = rng.choice(len(areas), size=count, p=areas / areas.sum())
    root, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    a, b, c = mesh.corners[chosen].transpose(1, 0, 2)
    return a + (1.0 - root) * (b - a) + root * v * (c - a)


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n] distance of each of the points [n, 3] to the nearest of the others [m, 3]."""
    from scipy.spatial import cKDTree

    return cKDTree(others).query(points)[0]


def chamfer(points: np.ndarray, others: np.ndarray, form: str = SQUARED) -> float:
    """The mean over one set of the distance to the nearest of the other, both ways, summed.

    form: "squared" takes squares of distances, as cadrille and Text2CAD do; "plain" the distances.
    """
    there, back = nearest(points, others), nearest(others, points)
    if form == SQUARED:
        return float((there**2).mean() + (back**2).mean())
    return float(there.mean() + back.mean())


def noise_floor(mesh: Mesh, count: int, seed: int, form: str = SQUARED) -> float:
    """The Chamfer distance of a shape to itself, its points drawn twice: what lies at it cannot be told from equal."""
    return chamfer(sampled(mesh, count, seed), sampled(mesh, count, seed + 1), form)
