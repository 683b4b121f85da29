"""A solid as a picture: flat shaded, seen from a corner, in parallel projection, its edges as lines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from mmrl.solids.meshes import Mesh
    from mmrl.solids.shown import Solid

ISOMETRIC = (1.0, -1.0, 0.8)  # from where it is seen: right, in front, above
_LIGHT = np.array([0.35, -0.55, 0.75])
_COLOUR, _LINE, _PAPER = (130, 165, 205), (30, 38, 50), (255, 255, 255)
_BEND = 0.9  # cosine of the angle between faces from which on there is an edge
_FINER = 2  # pixels of the drawing along one of the picture


def render(
    solid: Solid | Mesh,
    size: int = 224,
    view: Sequence[float] = ISOMETRIC,
    colour: Sequence[int] | np.ndarray = _COLOUR,
    edges: bool = True,
    frame: tuple[Sequence[float], Sequence[float]] | None = None,
    paper: Sequence[int] | None = _PAPER,
) -> Image.Image:
    """A picture of size x size pixels. view: the direction from the solid to the eye; z is up in the picture.

    frame: (low, high) corners of the box that fills the picture, so that two solids can be drawn alike; its own
    otherwise. colour: of all of it, or of each triangle, [T, 3]. paper: colour behind it; None is transparent. A solid
    without triangles is an empty picture. Raises ValueError for a view of no direction.
    """
    from PIL import Image

    width = size * _FINER
    triangles = solid.vertices[solid.triangles]  # [T, 3, 3]
    drawn = np.zeros((width, width, 4), dtype=np.uint8)
    drawn[:] = (0, 0, 0, 0) if paper is None else (*paper, 255)
    if len(triangles):
        axes = _axes(view)
        low, high = frame if frame is not None else (solid.vertices.min(axis=0), solid.vertices.max(axis=0))
        scale, shift = _fitted(np.asarray(low, float), np.asarray(high, float), axes, width)
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        sizes = np.linalg.norm(normals, axis=1)
        front = (normals @ axes[2] > 1e-12 * sizes.max()) & (sizes > 0)
        normals = normals[front] / sizes[front, None]
        places = triangles[front] @ axes.T * np.array([scale, -scale, scale]) + np.array([*shift, 0.0])
        seen = _nearest(places, width)  # [width, width] which triangle, -1 for none
        shade = np.clip(0.45 + 0.55 * (normals @ (_LIGHT / np.linalg.norm(_LIGHT))), 0.25, 1.0)
        there = seen >= 0
        colours = np.broadcast_to(np.asarray(colour, dtype=np.float64), (len(triangles), 3))[front]
        drawn[there, :3] = (shade[seen[there], None] * colours[seen[there]]).astype(np.uint8)
        drawn[there, 3] = 255
        if edges:
            drawn[_edges(seen, normals)] = (*_LINE, 255)
    image = Image.fromarray(drawn).resize((size, size), Image.Resampling.BOX)
    return image if paper is None else image.convert("RGB")


def _axes(view: Sequence[float]) -> np.ndarray:
    """[3, 3]: right, up, towards the eye."""
    to_eye = np.asarray(view, dtype=np.float64)
    length = float(np.linalg.norm(to_eye))
    if to_eye.shape != (3,) or not (np.isfinite(length) and length > 0):
        raise ValueError(f"view={view!r} is no direction: three numbers, not all 0")
    to_eye = to_eye / length
    up = np.array([0.0, 0.0, 1.0]) if abs(to_eye[2]) < 0.999 else np.array([0.0, 1.0, 0.0])
    right = np.cross(up, to_eye)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(to_eye, right), to_eye])


def _fitted(low: np.ndarray, high: np.ndarray, axes: np.ndarray, width: int) -> tuple[float, np.ndarray]:
    """Pixels a mm, and where the middle of the box goes, so that the box fits with a margin from any side."""
    corners = np.array(list(product(*zip(low, high))))
    flat = corners @ axes[:2].T
    span = float((flat.max(axis=0) - flat.min(axis=0)).max())
    scale = 0.9 * width / max(span, 1e-12)
    middle = (flat.max(axis=0) + flat.min(axis=0)) / 2.0
    return scale, width / 2.0 - scale * middle * np.array([1.0, -1.0])


def _nearest(places: np.ndarray, width: int) -> np.ndarray:
    """Which of the triangles [T, 3, (x, y, depth)] is seen at each pixel."""
    depth = np.full((width, width), -np.inf)
    seen = np.full((width, width), -1)
    lows = np.clip(np.floor(places[:, :, :2].min(axis=1)).astype(int), 0, width)
    highs = np.clip(np.ceil(places[:, :, :2].max(axis=1)).astype(int) + 1, 0, width)
    for number, (corners, (left, top), (right, bottom)) in enumerate(zip(places, lows, highs)):
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners.tolist()
        whole = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if left >= right or top >= bottom or abs(whole) < 1e-9:
            continue
        x = np.arange(left, right)[None, :] + 0.5
        y = np.arange(top, bottom)[:, None] + 0.5
        b = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) / whole
        c = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / whole
        z = az + b * (bz - az) + c * (cz - az)
        part = depth[top:bottom, left:right]
        hit = (b >= -1e-9) & (c >= -1e-9) & (b + c <= 1 + 1e-9) & (z > part)
        part[hit] = z[hit]
        seen[top:bottom, left:right][hit] = number
    return seen


def _edges(seen: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Pixels beside which another face begins, or nothing."""
    known = np.concatenate([normals, np.zeros((1, 3))])[seen]  # -1 is the last: no direction
    found = np.zeros(seen.shape, dtype=bool)
    for axis in (0, 1):
        bend = (known * np.roll(known, 1, axis=axis)).sum(axis=2) < _BEND
        bend &= (seen >= 0) | (np.roll(seen, 1, axis=axis) >= 0)
        found |= bend
    return found
