"""Draws docs/images/demo.png, the README's picture, from the folder of a run of `make demo`.

python docs/make_demo.py runs/demo
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

PICTURE = Path(__file__).resolve().parent / "images" / "demo.png"
SHOWN = 6
METRIC = "composition.follows"


def shown(run: Path, tag: str) -> list[tuple[str, float, Image.Image]]:
    """(prompt, share of its claims that hold, picture) of the first held-out prompts, in their own order."""
    folder = run / "samples" / tag
    groups = json.loads((folder / "index.json").read_text(encoding="utf-8"))["groups"][:SHOWN]
    firsts = [(group["prompt"]["text"], group["samples"][0]) for group in groups]
    return [(text, one["scores"][METRIC]["value"], Image.open(folder / one["file"])) for text, one in firsts]


def curves(run: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, mean reward of the training samples), and (step, held-out score), before and after the run included."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = json.loads((run / "summary.json").read_text(encoding="utf-8"))["eval"]
    name = f"eval/{METRIC}"
    train = [(row["step"], row["reward/mean"]) for row in rows if "reward/mean" in row]
    held = [(row["step"], row[name]) for row in rows if name in row and row["step"]]
    return train, [
        (0, ends["before"][name]),
        *(p for p in held if p[0] < train[-1][0]),
        (train[-1][0], ends["after"][name]),
    ]


def main(run: Path) -> None:
    before, after = shown(run, "eval_before"), shown(run, "eval_after")
    figure = plt.figure(figsize=(13, 3.9), layout="constrained")
    grid = figure.add_gridspec(2, SHOWN + 3)
    for row, (word, pictures) in enumerate((("before", before), ("after", after))):
        for column, (prompt, share, picture) in enumerate(pictures):
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(f"{share:.2f}", fontsize=9)
            if row == 0:
                axis.set_title(textwrap.fill(prompt, 17), fontsize=8)
            if column == 0:
                axis.set_ylabel(word, fontsize=10)
    axis = figure.add_subplot(grid[:, SHOWN:])
    train, held = curves(run)
    axis.plot(*zip(*train), color="0.7", label="training samples, mean")
    axis.plot(*zip(*held), "o-", color="#2b59c3", label="200 held-out prompts")
    axis.set_xlabel("step")
    axis.set_title("share of a caption's claims that hold", fontsize=9)
    axis.legend(fontsize=8, loc="lower right")
    axis.set_ylim(0, 1)
    figure.savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
