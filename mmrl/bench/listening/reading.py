"""MMAU's and MMAR's files as they are published: questions, options, the right one, and what a model said of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.bench.items import Item, check_ids
from mmrl.config import ConfigError
from mmrl.near import short
from mmrl.share import resolve


@dataclass(frozen=True)
class Benchmark:
    """What the files of a benchmark call their columns. said: where answers of a model stand, the first that is there;
    groups: by which scores are told."""

    name: str
    sound: tuple[str, ...]
    said: tuple[str, ...]
    groups: tuple[str, ...]


# MMAU's README and its kin write model_prediction, its scorer reads model_output.
MMAU = Benchmark("mmau", ("audio_id",), ("model_output", "model_prediction"), ("task", "difficulty"))
MMAR = Benchmark("mmar", ("audio_path",), ("answer_prediction",), ("modality", "category"))


@dataclass(frozen=True)
class Question(Item):
    """text: the question. options: as the file has them; gold: the text of the right one. sound: the name of a file.
    groups: "task: music" and its kin."""

    options: tuple[str, ...]
    gold: str
    sound: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class File:
    """questions; bad: why a record is none, by its id; said: what a model said, by id; odd: what is to be told; order:
    of all ids in the file."""

    questions: Sequence[Question]
    bad: Mapping[str, str]
    said: Mapping[str, str]
    odd: Sequence[str]
    order: Sequence[str]


def read(file: str | Path, benchmark: Benchmark, key: str | None = None, skip: bool = False) -> File:
    """The questions of a file, a list of JSON or an object a line, and what it has of a model's answers (column `key`;
    None: the benchmark's).

    skip: a record that is no question is told of, and counted as not answered. Raises ConfigError with the record.
    """
    questions, bad, said, order, same, empty = [], {}, {}, [], 0, 0
    for number, where, record in records(file):
        name = _name(record, number)
        order.append(name)
        try:
            question = _question(record, name, benchmark)
        except ValueError as error:
            if not skip:
                raise ConfigError(f"{where}: {error}; mend it, or --on-bad skip") from None
            bad[name] = f"{where}: {error}"
            continue
        questions.append(question)
        folded = [option.casefold().strip() for option in question.options]
        same += len(set(folded)) < len(folded)
        empty += len(question.options) < len(record["choices"])
        if (answer := answer_of(record, benchmark, key, where)) is not None:
            said[name] = answer
    check_ids([*questions, *(Item(name, "") for name in bad)], file)
    if not questions:
        raise ConfigError(f"{file} holds no question that can be asked; the first: {next(iter(bad.values()))}")
    odd = [f"{same} questions have the same option twice, as they are published"] if same else []
    odd += [f"{empty} questions have an option without a text, as they are published; it is not shown"] if empty else []
    return File(questions, bad, said, odd, order)


def predictions(file: str | Path, benchmark: Benchmark, key: str | None = None) -> dict[str, str]:
    """What a model said, by the id of the question; records without an answer are left out.

    Raises ConfigError for a file in which none has one, and for two answers to one question.
    """
    found: dict[str, str] = {}
    for number, where, record in records(file):
        answer, name = answer_of(record, benchmark, key, where), _name(record, number)
        if answer is not None and found.setdefault(name, answer) != answer:
            raise ConfigError(f"{where}: a second answer to the question {short(name)}")
    if not found:
        wanted = key or " or ".join(benchmark.said)
        raise ConfigError(f"{file}: no record has {wanted}; --key NAME says where answers stand")
    return found


def answer_of(record: Mapping[str, Any], benchmark: Benchmark, key: str | None, where: str) -> str | None:
    """What a model said; None where nothing is. Raises ConfigError for two columns that say different things."""
    told = {name: record[name] for name in ((key,) if key else benchmark.said) if record.get(name) is not None}
    if len({str(value) for value in told.values()}) > 1:
        raise ConfigError(f"{where}: {' and '.join(told)} say different things; --key NAME says which counts")
    value = next(iter(told.values()), None)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{where}: {next(iter(told))} is {short(value)}, expected a text")
    return value


def _name(record: Mapping[str, Any], number: int) -> str:
    """The record's id, its number where it has none: 0 is an id."""
    given = record.get("id")
    return str(number if given is None or given == "" else given)


def records(file: str | Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number from 0, where it stands, record). Raises ConfigError for what is no JSON of objects."""
    try:
        text = resolve(str(file)).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    lines = [(f"{file}, line {n}", line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    whole = text.lstrip().startswith("[")
    try:
        listed = json.loads(text) if whole else []
    except ValueError as error:
        raise ConfigError(f"{file}: no JSON: {error}") from None
    if whole:
        lines = [(f"{file}[{n}]", one) for n, one in enumerate(listed)]
    for number, (where, line) in enumerate(lines):
        try:
            record = line if whole else json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: no JSON: {error}") from None
        if not isinstance(record, dict):
            raise ConfigError(f"{where}: {short(record)} is no object")
        yield number, where, record


def _question(record: Mapping[str, Any], name: str, benchmark: Benchmark) -> Question:
    """Raises ValueError for what cannot be asked, or whose right answer nobody knows."""
    text, options, gold = (record.get(column) for column in ("question", "choices", "answer"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"question is {short(text)}, expected a text")
    given = options if isinstance(options, list) else []
    if wrong := next((n for n, one in enumerate(given, 1) if not isinstance(one, str)), None):
        raise ValueError(f"option {wrong} is {short(given[wrong - 1])}, expected a text")
    options = [option for option in given if option.strip()]
    if len(options) < 2:
        raise ValueError(f"choices is {short(record.get('choices'))}, expected two options or more")
    if gold is None or gold == "":
        raise ValueError("there is no answer: a split whose answers are hidden is scored where it was published")
    if gold not in options:
        raise ValueError(f"answer is {short(gold)}, which is none of its options {short(options)}")
    sound = next((record[column] for column in benchmark.sound if record.get(column)), None)
    if not isinstance(sound, str):
        raise ValueError(f"{' or '.join(benchmark.sound)} is {short(sound)}, expected the name of a sound")
    groups = [f"{column}: {value}" for column in benchmark.groups for value in _values(record.get(column))]
    return Question(name, text, tuple(options), gold, sound, tuple(groups))


def _values(value: Any) -> list[str]:
    """A column that some records have as a list."""
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one is not None]
