"""What is read of the replies of servers that score: numbers where there are some, and reasons elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mmrl.near import short
from mmrl.types import Score


def rows(said: Any, name: str, count: int) -> list[Any] | str:
    """The list of that name in a reply, of just so many entries; or what there is instead."""
    given = said.get(name) if isinstance(said, dict) else None
    if not isinstance(given, list):
        return f"the reply has no list of {name}: {short(said)}"
    return given if len(given) == count else f"the reply has {len(given)} {name} for {count} samples"


def entries(said: Any, count: int) -> list[Mapping[str, Any] | Score]:
    """The entries of `data`, in the order of their index, which has to name each sample once; or the same invalid score
    for all."""
    given = rows(said, "data", count)
    if isinstance(given, str):
        return [Score.invalid(given)] * count
    order: list[Any] = [entry.get("index") if isinstance(entry, dict) else None for entry in given]
    if any(type(i) is not int for i in order) or sorted(order) != list(range(count)):
        return [Score.invalid(f"the reply's data have the index {short(order)} for {count} samples")] * count
    return [given[order.index(place)] for place in range(count)]


def number(value: Any) -> Score:
    """A finite number of a reply; anything else is invalid, a text and a truth too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Score.invalid(f"the reply has {short(value)} in the place of a number")
    return Score.of(value)


def with_reason(value: Any, reason: Any) -> Score:
    """A value with what the server says of it: null is invalid, or does not apply where it says so."""
    if value is not None:
        return number(value)
    words = told(reason) if reason else "the reply has null, and no reason"
    if words.startswith("not applicable"):
        return Score(None, words, "na")
    return Score.invalid(words)


def told(reason: Any) -> str:
    """A server's reason, on one line, cut short."""
    return " ".join(str(reason).split())[:300]


def fingerprint(*parts: Any) -> str:
    """Equal for equal JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
