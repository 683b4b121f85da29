"""Writes the files of this folder: `python datasets/drawn_bench/build.py`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

Task = dict[str, Any]

GENEVAL: list[Task] = [
    {"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a green circle"},
    {
        "tag": "two_object",
        "include": [{"class": "circle", "count": 1}, {"class": "square", "count": 1}],
        "prompt": "a red circle and a yellow square",
    },
    {
        "tag": "counting",
        "include": [{"class": "triangle", "count": 2}],
        "exclude": [{"class": "triangle", "count": 3}],
        "prompt": "two blue triangles",
    },
    {
        "tag": "colors",
        "include": [{"class": "square", "count": 1, "color": "yellow"}],
        "prompt": "a yellow square",
    },
    {
        "tag": "position",
        "include": [{"class": "square", "count": 1}, {"class": "circle", "count": 1, "position": ["above", 0]}],
        "prompt": "a red circle above a blue square",
    },
    {
        "tag": "color_attr",
        "include": [
            {"class": "triangle", "count": 1, "color": "green"},
            {"class": "circle", "count": 1, "color": "blue"},
        ],
        "prompt": "a green triangle and a blue circle",
    },
]

# (prompt, [(test point, what of the prompt it is about)])
UNIGENBENCH = [
    ("a green circle", [("Attribute - Color", "green"), ("Attribute - Shape", "a circle")]),
    ("two blue triangles", [("Attribute - Quantity", "two triangles"), ("Attribute - Color", "blue")]),
    ("a red circle above a blue square", [("Entity Layout - Two-Dimensional Space", "the circle above the square")]),
    (
        "a green triangle and a blue circle",
        [
            ("Compound - Feature Matching", "the triangle is green, the circle is blue"),
            ("Attribute - Shape", "both shapes"),
        ],
    ),
    ("three yellow squares", [("Attribute - Quantity", "three squares"), ("Grammar - Consistency", "all are yellow")]),
    ("a yellow square left of two red circles", [("Relationship - Comparison", "one square, two circles")]),
]


def write() -> None:
    (HERE / "geneval.jsonl").write_text("".join(json.dumps(task) + "\n" for task in GENEVAL), encoding="utf-8")
    with (HERE / "unigenbench_en.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["index", "prompt_en", "sub_dims_en"])
        for index, (prompt, points) in enumerate(UNIGENBENCH):
            told = {"Testpoints": [p for p, _ in points], "Testpoint Description": [d for _, d in points]}
            rows.writerow([index, prompt, json.dumps(told)])


if __name__ == "__main__":
    write()
