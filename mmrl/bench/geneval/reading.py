"""GenEval's evaluation_metadata.jsonl as it is published: for each prompt, what has to be seen and what must not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.bench.items import Item, check_ids
from mmrl.config import ConfigError
from mmrl.near import near, short
from mmrl.share import resolve

RELATIONS = ("left of", "right of", "above", "below")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_KEYS, _CLAUSE = ("tag", "include", "exclude", "prompt"), ("class", "count", "color", "position")


@dataclass(frozen=True)
class Clause:
    """`count` objects of a class; perhaps each of a colour, and each in a relation to all objects of another clause."""

    label: str
    count: int
    colour: str | None = None
    relation: tuple[str, int] | None = None


@dataclass(frozen=True)
class Task(Item):
    """include: all have to hold; exclude: none may. tag: the task that the prompt is one of."""

    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]
    record: Mapping[str, Any]


def read(file: str | Path) -> list[Task]:
    """The prompts of a file; the id is the number of the line, from 0. Raises ConfigError with the line."""
    try:
        lines = resolve(str(file)).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    written = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    tasks = [_task(line, str(index), f"{file}, line {number}") for index, (number, line) in enumerate(written)]
    check_ids(tasks, file)
    return tasks


def labels(tasks: list[Task]) -> list[str]:
    """The classes of a file, sorted."""
    return sorted({clause.label for task in tasks for clause in (*task.include, *task.exclude)})


def _task(line: str, index: str, where: str) -> Task:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: no JSON: {error}") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{where}: {short(record)} is no object")
    _known(record, _KEYS, where)
    tag, text = record.get("tag"), record.get("prompt")
    if not isinstance(tag, str) or not tag or not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where}: tag is {short(tag)} and prompt {short(text)}; expected two texts")
    include = _clauses(record.get("include"), f"{where}: include")
    if not include:
        raise ConfigError(f"{where}: include is empty: every picture would be right")
    return Task(index, text, tag, include, _clauses(record.get("exclude", []), f"{where}: exclude", False), record)


def _clauses(value: Any, where: str, full: bool = True) -> tuple[Clause, ...]:
    if not isinstance(value, list) or not all(isinstance(clause, dict) for clause in value):
        raise ConfigError(f"{where} is {short(value)}, not a list of objects")
    return tuple(_clause(clause, number, where, full) for number, clause in enumerate(value))


def _clause(value: Mapping[str, Any], number: int, where: str, full: bool) -> Clause:
    """number: its place; a relation is to a clause before it. full: with colours and relations."""
    _known(value, _CLAUSE if full else _CLAUSE[:2], where)
    label, count, colour = value.get("class"), value.get("count"), value.get("color")
    if not isinstance(label, str) or not label or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"{where}: {short(value)}; expected a class and a count of 1 or more")
    if colour is not None and colour not in COLOURS:
        raise ConfigError(f"{where}: color {short(colour)}; {near(str(colour), COLOURS)}")
    relation = value.get("position")
    if relation is None:
        return Clause(label, count, colour)
    whole = isinstance(relation, list) and len(relation) == 2 and relation[0] in RELATIONS
    if not whole or isinstance(relation[1], bool) or relation[1] not in range(number):
        known = ", ".join(RELATIONS)
        raise ConfigError(f"{where}: position {short(relation)}; expected [{known}, number of an earlier clause]")
    return Clause(label, count, colour, (relation[0], relation[1]))


def _known(value: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    if wrong := next((key for key in value if key not in keys), None):
        raise ConfigError(f"{where}: unknown {short(wrong)}, which nothing here looks at; {near(wrong, keys)}")
