"""Writes grids.jsonl: sets of pictures of one subject, a grid of 2 x 2 cells, each in words of its own."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Subject, then how all cells look.
SUBJECTS = [
    ("a young fox with a white ear", "watercolour on rough paper"),
    ("an old lighthouse keeper with a grey beard", "an oil painting with thick strokes"),
    ("a small robot made of copper", "a clean studio photograph"),
    ("a girl with a red umbrella", "a pencil drawing with fine hatching"),
    ("a blue enamel teapot", "a photograph in soft window light"),
    ("a wooden sailing boat with a patched sail", "a woodcut print in two colours"),
    ("a sleepy ginger cat", "a soft pastel illustration"),
    ("a knight in dented armour", "a comic with bold outlines"),
    ("a street musician with an accordion", "a photograph at golden hour"),
    ("a round glass lamp", "a product photograph on a plain ground"),
]
SETS = [
    ["in spring, among blossoms", "in summer, in high grass", "in autumn, among leaves", "in winter, in snow"],
    ["seen from the front", "seen from the left side", "seen from behind", "seen from above"],
    ["in the morning, in fog", "at noon, in bright light", "at dusk, in the rain", "at night, under a lantern"],
]
PLACES = ["TOP-LEFT", "TOP-RIGHT", "BOTTOM-LEFT", "BOTTOM-RIGHT"]


def prompts() -> list[dict]:
    """Records {id, prompt, grid, split}; the last subjects are held out."""
    found = []
    for number, (subject, look) in enumerate(SUBJECTS):
        for kind, cells in enumerate(SETS):
            text = f"A 2x2 grid of pictures of {subject}, all of them {look}, with the same subject in each."
            text += "".join(f" [{place}]: {subject} {cell}." for place, cell in zip(PLACES, cells))
            split = "heldout" if number >= len(SUBJECTS) - 2 else "train"
            found.append({"id": f"grids-{number:02d}-{kind}", "prompt": text, "grid": [2, 2], "split": split})
    return found


if __name__ == "__main__":
    lines = [json.dumps(record) for record in prompts()]
    (HERE / "grids.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
