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
METRIC, WHOLE = "composition.follows", "composition.strict"


def shown(run: Path, tag: str) -> list[tuple[str, float, Image.Image]]:
    """(prompt, share of its claims that hold, picture) of the first held-out prompts, in their own order."""
    folder = run / "samples" / tag
    groups = json.loads((folder / "index.json").read_text(encoding="utf-8"))["groups"][:SHOWN]
    firsts = [(group["prompt"]["text"], group["samples"][0]) for group in groups]
    return [(text, one["scores"][METRIC]["value"], Image.open(folder / one["file"])) for text, one in firsts]


def curve(run: Path, metric: str) -> list[tuple[int, float]]:
    """(step, held-out score), before and after the run included."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = json.loads((run / "summary.json").read_text(encoding="utf-8"))["eval"]
    name, last = f"eval/{metric}", rows[-1]["step"]
    held = [(row["step"], row[name]) for row in rows if name in row and 0 < row["step"] < last]
    return [(0, ends["before"][name]), *held, (last, ends["after"][name])]


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
    axis.plot(*zip(*curve(run, METRIC)), "o-", color="#2b59c3", label="share of the claims that hold")
    axis.plot(*zip(*curve(run, WHOLE)), "s--", color="#c3572b", label="share of pictures that keep all")
    axis.set_xlabel("step")
    axis.set_title("200 held-out prompts", fontsize=9)
    axis.legend(fontsize=8, loc="upper left")
    axis.set_ylim(0, 1)
    figure.savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
