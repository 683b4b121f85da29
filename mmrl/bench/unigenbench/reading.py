"""UniGenBench's files as they are published: a CSV of index, prompt and test points, in English or Chinese."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.bench.items import Item, check_ids
from mmrl.config import ConfigError
from mmrl.near import near, short
from mmrl.share import resolve

_LARGEST = 1 << 24  # characters of a cell
_REPAIRS = 3  # commas that may be put into one cell


@dataclass(frozen=True)
class Columns:
    """How one language's columns and keys are called."""

    prompt: str
    told: str
    points: str
    descriptions: str


LANGUAGES: Mapping[str, Columns] = {
    "en": Columns("prompt_en", "sub_dims_en", "Testpoints", "Testpoint Description"),
    "zh": Columns("prompt_zh", "sub_dims_zh", "考点", "考点对应描述"),
}


@dataclass(frozen=True)
class Asked(Item):
    """A prompt. points: its test points' kinds; descriptions: what of the prompt each is about."""

    points: tuple[str, ...]
    descriptions: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """notices: what was mended, or is odd."""

    language: str
    items: list[Asked]
    notices: list[str]


def read(file: str | Path, language: str | None = None) -> Read:
    """The prompts of a file. language: of a file that holds both.

    A comma that lacks between two texts of a cell's JSON is put in, and told, and so is a description that is empty:
    the published long English file has one of the first, the short one of the second. Raises ConfigError for anything
    else that is not as published, with the row.
    """
    path = resolve(str(file))
    csv.field_size_limit(_LARGEST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read as a CSV: {error}") from None
    found = _language(rows[0] if rows else {}, file, language)
    notices: list[str] = []
    items = [
        _asked(row, LANGUAGES[found], f"{file}, row {number}", notices) for number, row in enumerate(rows, start=1)
    ]
    check_ids(items, file)
    return Read(found, items, notices)


def _language(row: Mapping[str, Any], file: str | Path, wanted: str | None) -> str:
    there = [name for name, columns in LANGUAGES.items() if columns.prompt in row and columns.told in row]
    if wanted is not None and wanted not in LANGUAGES:
        raise ConfigError(f"language {short(wanted)}: {near(wanted, LANGUAGES)}")
    if not there or (wanted is not None and wanted not in there):
        columns = " or ".join(f"{c.prompt} and {c.told}" for n, c in LANGUAGES.items() if wanted in (None, n))
        raise ConfigError(f"{file} has no columns {columns}; it has {short(', '.join(map(str, row)))}")
    if wanted is None and len(there) > 1:
        raise ConfigError(f"{file} holds {' and '.join(there)}; say which (--language)")
    return wanted or there[0]


def _asked(row: Mapping[str, Any], columns: Columns, where: str, notices: list[str]) -> Asked:
    number, text = str(row.get("index") or "").strip(), (row[columns.prompt] or "").strip()
    try:
        number = str(int(float(number)))
    except (ValueError, OverflowError):
        raise ConfigError(f"{where}: the index is {short(number)}, not a number") from None
    told = _json(row[columns.told] or "", where, notices)
    points, descriptions = (_texts(told, key, where) for key in (columns.points, columns.descriptions))
    if not all(points):
        raise ConfigError(f"{where}: a name in {columns.points} is empty")
    if not all(descriptions):
        notices.append(f"{where}: a test point without a description, asked about as it is")
    if not text or not points or len(points) != len(descriptions):
        raise ConfigError(
            f"{where}: {'a prompt' if text else 'no prompt'}, {len(points)} {columns.points} and {len(descriptions)} "
            f"{columns.descriptions}; expected a prompt, and as many of both, 1 or more"
        )
    return Asked(number, text, points, descriptions)


def _json(text: str, where: str, notices: list[str]) -> Mapping[str, Any]:
    commas = 0
    while True:
        try:
            told = json.loads(text)
        except json.JSONDecodeError as error:
            if error.msg != "Expecting ',' delimiter" or text[error.pos : error.pos + 1] != '"' or commas == _REPAIRS:
                raise ConfigError(f"{where}: its test points are no JSON: {error}") from None
            text, commas = f"{text[: error.pos]}, {text[error.pos :]}", commas + 1
            continue
        if not isinstance(told, Mapping):
            raise ConfigError(f"{where}: its test points are {short(told)}, not an object")
        if commas:
            notices.append(f"{where}: {commas} comma{'s' * (commas > 1)} lacked in its JSON, and was put in")
        return told


def _texts(told: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = told.get(key)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ConfigError(f"{where}: {key} is {short(value)}, not a list of texts")
    return tuple(text.strip() for text in value)


def primary(point: str) -> str:
    """The primary dimension of a test point: what stands before the first hyphen, or all of it."""
    return point.partition("-")[0].strip()


def strange(items: Sequence[Asked], known: Mapping[str, str]) -> Iterator[str]:
    """A notice of test points that the benchmark does not have: they make dimensions of their own."""
    names = [point for item in items for point in item.points if point not in known]
    if names:
        told = ", ".join(f"{short(name)} ({names.count(name)})" for name in sorted(set(names))[:5])
        yield f"test points that have no definition: {told}"
