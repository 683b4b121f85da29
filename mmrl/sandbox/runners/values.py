"""Plain values as JSON and back: what a call is given and returns crosses between processes as this and nothing else.

None, booleans, numbers, texts and lists are themselves; {"t": kind, "v": ...} is a tuple, set, frozenset, dict, bytes,
complex, range, iterator, a float that JSON lacks, or `opaque`: an object that is no plain value, by its type's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ..outcome import one_line

DEEPEST = 60
MOST = 200_000  # items of an iterator


class Opaque:
    """An object that is no plain value; it equals nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<a {self.kind}>"


def encoded(value: Any, depth: int = 0) -> Any:
    """The value as what json.dumps takes. What is no plain value, or too deep, becomes opaque."""
    if value is None or isinstance(value, bool):
        return value
    if depth > DEEPEST:
        return _tagged("opaque", "value that is nested too deeply")
    for kind, plain in ((str, str), (int, int), (float, float)):
        if isinstance(value, kind):
            return _number(plain(value))
    if isinstance(value, list):
        return [encoded(one, depth + 1) for one in value]
    if isinstance(value, tuple):
        return _tagged("tuple", [encoded(one, depth + 1) for one in value])
    if isinstance(value, set | frozenset):
        name = "set" if isinstance(value, set) else "frozenset"
        return _tagged(name, sorted((encoded(one, depth + 1) for one in value), key=repr))
    if isinstance(value, dict):
        return _tagged("dict", [[encoded(key, depth + 1), encoded(one, depth + 1)] for key, one in value.items()])
    if isinstance(value, bytes | bytearray):
        return _tagged("bytes", value.hex())
    if isinstance(value, complex):
        return _tagged("complex", [_number(value.real), _number(value.imag)])
    if isinstance(value, range):
        return _tagged("range", [value.start, value.stop, value.step])
    return _other(value, depth)


def decoded(said: Any, depth: int = 0) -> Any:
    """The value that `encoded` made this of. Raises ValueError for what it did not make: a stranger may have."""
    if depth > DEEPEST + 2:
        raise ValueError("nested too deeply")
    if said is None or isinstance(said, bool | int | float | str):
        return said
    if isinstance(said, list):
        return [decoded(one, depth + 1) for one in said]
    if not isinstance(said, dict) or set(said) != {"t", "v"}:
        raise ValueError("no value")
    kind, inside = said["t"], said["v"]
    try:
        if kind in ("tuple", "set", "frozenset", "iterator"):
            return _SEVERAL[kind](decoded(one, depth + 1) for one in inside)
        if kind == "dict":
            return {decoded(key, depth + 1): decoded(one, depth + 1) for key, one in inside}
        if kind == "complex":
            return complex(*(float(decoded(part)) for part in inside))
        return _ONE[kind](inside)
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"no value: {error}") from error


def _whole(parts: list[Any]) -> range:
    if not all(type(part) is int for part in parts):
        raise ValueError("a range of no whole numbers")
    return range(*parts)


_SEVERAL: dict[str, Any] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iterator": lambda some: iter(list(some)),
}
_ONE: dict[str, Any] = {
    "bytes": bytes.fromhex,
    "range": _whole,
    "float": float,
    "opaque": lambda name: Opaque(one_line(str(name))[:60]),
}


def _tagged(kind: str, value: Any) -> dict[str, Any]:
    return {"t": kind, "v": value}


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _tagged("float", repr(value))
    if isinstance(value, int) and value.bit_length() > 13_000:  # Python reads and writes 4300 digits
        return _tagged("opaque", "whole number of thousands of digits")
    return value


def _other(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return encoded(value.tolist(), depth + 1)
    if isinstance(value, Iterator):
        items = list(islice(value, MOST + 1))
        if len(items) <= MOST:
            return _tagged("iterator", [encoded(one, depth + 1) for one in items])
        return _tagged("opaque", f"iterator of over {MOST} items")
    return _tagged("opaque", str(kind.__name__)[:60])
