"""One raw record as its source has it, and the text of one as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

DIGITS = 300  # a whole number of more is no float and no sensible datum


@dataclass(frozen=True)
class Row:
    """One raw record: where it stands, its number (the id, where it brings none), and what is wrong with it."""

    where: str
    number: int
    record: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Flaw:
    """Stands in a record for a value that Python's reader of JSON takes and that is none; the checks refuse it."""

    why: str


def parsed(where: str, number: int, text: str) -> Row:
    """The row of a record that is one text of JSON; what is wrong with the text is its problem."""
    try:
        return as_row(where, number, DECODER.decode(text))
    except json.JSONDecodeError as error:
        return Row(where, number, problem=f"not JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return Row(where, number, problem="not usable: brackets in brackets, too many deep")


def as_row(where: str, number: int, value: Any) -> Row:
    """The row of a record that is a dict; of anything else, its problem."""
    if isinstance(value, dict):
        return Row(where, number, value)
    return Row(where, number, problem=f"needs a non-empty string `prompt` in an object, got {type(value).__name__}")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    made = {}
    for key, value in pairs:
        made[key] = Flaw("stands twice in one object") if key in made else value
    return made


def _integer(text: str) -> int | Flaw:
    return int(text) if len(text) <= DIGITS else Flaw(f"is a number of {len(text)} digits")


def _constant(name: str) -> Flaw:
    return Flaw(f"is {name}, which is no JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_integer, parse_constant=_constant)
