"""A Python program as such: the argument is its standard input; what it prints is the outcome's `printed`."""

from __future__ import annotations

import importlib

from ..sieve import compiled
from .plain import PYTHON, as_program

_COMMON = ("bisect", "collections", "functools", "heapq", "itertools", "math", "random", "re", "string", "typing")


def prepare() -> None:
    """What answers import most often is imported once."""
    for name in _COMMON:
        importlib.import_module(name)


def execute(source: str, argument: bytes) -> bytes:
    as_program(compiled(source, PYTHON))
    return b""
