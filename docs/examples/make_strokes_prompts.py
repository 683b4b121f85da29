"""Writes strokes.jsonl: six figures in four corners, the lines that make them, and which pairs are held out."""

from __future__ import annotations

import json
from pathlib import Path

# Lines (x0, y0, x1, y1) of each figure on a canvas from -1 to 1, y downwards, before it is moved to a corner.
FIGURES = {
    "dash": [[-0.4, 0, 0.4, 0]],
    "bar": [[0, -0.4, 0, 0.4]],
    "plus": [[-0.4, 0, 0.4, 0], [0, -0.4, 0, 0.4]],
    "ell": [[-0.4, -0.4, -0.4, 0.4], [-0.4, 0.4, 0.4, 0.4]],
    "tee": [[-0.4, -0.4, 0.4, -0.4], [0, -0.4, 0, 0.4]],
    "gate": [[-0.4, -0.4, 0.4, -0.4], [-0.4, -0.4, -0.4, 0.4], [0.4, -0.4, 0.4, 0.4]],
}
CORNERS = {"top left": (-0.5, -0.5), "top right": (0.5, -0.5), "bottom left": (-0.5, 0.5), "bottom right": (0.5, 0.5)}


def main() -> None:
    rows = []
    for f, (figure, lines) in enumerate(FIGURES.items()):
        for c, (corner, (x, y)) in enumerate(CORNERS.items()):
            moved = [[round(a + b, 2) for a, b in zip(line, (x, y, x, y))] for line in lines]
            # Every figure and every corner is seen in training, each held-out pair of them is not.
            split = "heldout" if c == f % 4 else "train"
            rows.append(
                {"id": f"{figure}-{corner}", "prompt": f"a {figure} at the {corner}", "lines": moved, "split": split}
            )
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (Path(__file__).parent / "strokes.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
