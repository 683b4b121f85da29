"""Objects of Python in a configuration: rows and functions that have no file, by names that a configuration can hold.

A name is `object:MARK` of rows, where the mark is of what they hold, and `object:function:NAME` of a function or
another callable. The objects themselves are kept for as long as the process lives; a new process has to be given them
again.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

PREFIX = "object:"
FUNCTION = "object:function:"
DATA = ("prompts", "eval_prompts", "records", "pairs")  # keys of a config that name a source of records
_held: dict[str, Any] = {}


class UnknownObject(ValueError):
    """A name of an object that this process was not given."""


def is_object(name: str | None) -> bool:
    """Whether a name in a configuration is that of an object."""
    return bool(name) and str(name).startswith(PREFIX)


def is_function(name: str | None) -> bool:
    """Whether a name in a configuration is that of a callable."""
    return bool(name) and str(name).startswith(FUNCTION)


def held(name: str) -> Any:
    """The object of a name. Raises UnknownObject, which says what to do."""
    if name not in _held:
        raise UnknownObject(
            f"{name} is an object of Python that this process does not have: begin and resume such a run from Python, "
            "and give mmrl.train the object again"
        )
    return _held[name]


def replaced(values: Any) -> Any:
    """A copy of a configuration's values with the names of objects in the places of objects, which are kept.

    Rows may be lists of dicts (or of texts), `datasets` objects, data frames, iterators and functions that generate
    them; a function with a parameter is one of the index. Rewards are callables, alone or as `name`.
    Raises ValueError for rows that are none.
    """
    return _Names().replaced(values, "")


class _Names:
    """Names of the callables of one configuration: two different ones never share theirs."""

    def __init__(self) -> None:
        self._given: dict[str, Any] = {}

    def replaced(self, value: Any, key: str) -> Any:
        if key in DATA and not (value is None or isinstance(value, str | int | Path)):
            return self._source(value, key)
        if isinstance(value, Mapping):
            return {name: self.replaced(inner, str(name).rpartition(".")[2]) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            if key == "rewards":
                return [{"name": self._callable(one)} if callable(one) else self.replaced(one, "") for one in value]
            return [self.replaced(inner, "") for inner in value]
        return self._callable(value) if key == "name" and callable(value) else value

    def _source(self, value: Any, key: str) -> str:
        if callable(value) and not hasattr(value, "__iter__"):
            needed = [p for p in inspect.signature(value).parameters.values() if p.default is p.empty]
            if needed:
                return self._callable(value)
            value = value()
        rows = _rows(value, key)
        name = f"{PREFIX}{mark_of_rows(rows)}"
        _held[name] = rows
        return name

    def _callable(self, value: Any) -> str:
        plain = f"{FUNCTION}{called(value)}"
        name = next(
            n for n in (plain if i == 1 else f"{plain}#{i}" for i in count(1)) if self._given.get(n, value) is value
        )
        self._given[name] = _held[name] = value
        return name


def called(function: Any) -> str:
    """What a callable is called in metrics: its own name, or that of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return name.strip("<>")


def _rows(value: Any, key: str) -> list[dict[str, Any]]:
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a data frame of pandas
        value = value.to_dict("records")
    if isinstance(value, Mapping):
        raise ValueError(
            f"{key}: got a {type(value).__name__} of {', '.join(map(str, list(value)[:5]))}; give rows: one of its "
            "splits"
        )
    if not (isinstance(value, Iterable) or hasattr(value, "__getitem__")):
        raise ValueError(f"{key}: got {type(value).__name__}, expected a source's name, rows, or a function")
    rows = [{"prompt": row} if isinstance(row, str) else row for row in value]
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{key}[{number}] is {type(row).__name__}, expected a dict of columns, or a text")
    return [dict(row) for row in rows]


# -------------------------------------------------------------------- marks: what is recorded of an object


def mark_of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """12 letters that are others for other rows, and the same in every process."""
    digest = hashlib.sha256()
    for row in rows:
        raw = json.dumps(row, default=_told, ensure_ascii=False).encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:12]


def mark_of_code(function: Callable[..., Any]) -> str:
    """12 letters that are others for other code: the source's, or the compiled code's where there is none."""
    parts = []
    while isinstance(function, functools.partial):
        parts += [repr(function.args), repr(sorted(function.keywords.items()))]
        function = function.func
    code = function if hasattr(function, "__code__") or inspect.isclass(function) else type(function)
    try:
        parts.append(inspect.getsource(code))
    except (OSError, TypeError):  # typed at a prompt
        compiled = getattr(code, "__code__", None)
        parts.append(f"{compiled.co_code!r} {compiled.co_consts!r}" if compiled else repr(code))
    parts += [repr(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    return hashlib.sha256("\0".join(_without_addresses(part) for part in parts).encode()).hexdigest()[:12]


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _told(value: Any) -> str:
    """What stands in a mark for a value that JSON does not know: its bytes, where it has some."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if hasattr(value, "tobytes"):  # pictures, arrays
        shape = getattr(value, "size", None), getattr(value, "shape", None), getattr(value, "mode", None)
        return f"{shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return called(value) if callable(value) else _without_addresses(repr(value))
