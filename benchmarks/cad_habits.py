"""What effects_cad.py adds to datasets/parts: a habit of drawing too much, an evaluator that likes it, and numbers."""

from __future__ import annotations

import ast
import random
from collections import Counter
from functools import cache
from types import ModuleType
from typing import Any

from mmrl.importing import import_file
from mmrl.share import share
from mmrl.types import Sample

WISHED = 8  # operations with which the evaluator is content
OF_ALL = (0, 2, 6, 360)  # numbers that programs of all parts have: 2 of a half, 6 of a hexagon


@cache
def parts() -> ModuleType:
    """datasets/parts/parts.py, which is in no package."""
    return import_file(share("datasets") / "parts" / "parts.py")


@cache
def spans() -> ModuleType:
    """rewards/cad_spans.py."""
    return import_file(share("rewards") / "cad_spans.py")


def unfinished(index: int, rate: float = 0.5, slips: float = 0.0) -> dict[str, Any]:
    """`program` of datasets/parts with the habit of one who draws and does not build: a share `rate` of the programs go
    on with an outline on the top that nobody extrudes, so that what they leave is no solid. It looks like one feature
    more."""
    record: dict[str, Any] = parts().program(index, slips=slips)
    rng = random.Random(f"unfinished/{index}")
    if rng.random() >= rate:
        return record
    width = rng.choice(sorted(record["numbers"].values()))
    more = f'.faces(">Z").workplane().circle({width}/2)'
    return {**record, "completion": record["completion"] + more, "mistakes": [*record["mistakes"], "unfinished"]}


def detail(samples: list[Sample]) -> list[float]:
    """The mark of an evaluator that reads a program and does not run it: operations that are named, up to WISHED of
    them, in [0, 1]. It takes more features for a better part, as judges take longer answers for better ones."""
    return [min(1.0, named(str(sample.artifact)) / WISHED) for sample in samples]


def named(text: str) -> int:
    """Calls of geometric operations in a program."""
    found = [text[start:end] for start, end in spans().spans(text)]
    return sum(word in spans().OPERATIONS for word in found)


def numbers(samples: list[Sample]) -> list[float]:
    """1 where the numbers of the part, and no others, stand in the program as often as in the target's, else 0; but
    for OF_ALL."""
    return [float(dimensions(sample.artifact) == dimensions(sample.prompt.record["code"])) for sample in samples]


def dimensions(code: str) -> Counter[int] | None:
    """Whole numbers of a program, but for OF_ALL, by how often they stand in it; None for what is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:
        return None
    values = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return Counter(value for value in values if type(value) is int and value not in OF_ALL)
