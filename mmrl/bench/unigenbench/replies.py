"""Reading a judge's answer: a mark for each test point, or nothing that counts."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence

from mmrl.thoughts import behind_thoughts

_LONGEST = 20_000  # characters of a list of names
_SCORES = re.compile(r"<score>(.*?)</score>", re.DOTALL)
_POINTS = re.compile(r"<checkpoint>(.*?)</checkpoint>", re.DOTALL)
_ANALYSIS = re.compile(r"</?analysis>")  # of the answer's form here, where other models open a thought with it
_MARKS = re.compile(r"\[\s*[01](?:\s*,\s*[01])*\s*,?\s*\]")


def marks_in(answer: str, points: Sequence[str]) -> tuple[int, ...] | None:
    """A 0 or 1 for each of the test points, in their order; None for an answer that does not say so.

    The marks are the list in <score>, one for each point. An answer that gives its points in <checkpoint> in another
    order has its marks in that order; one with other points, several lists that do not agree, too few or too many
    marks says nothing. Its analysis is not looked at: the released scripts drop an answer whose analysis is no Python.
    """
    said = behind_thoughts(_ANALYSIS.sub("", answer))
    lists = {
        tuple(int(mark) for mark in re.findall("[01]", text))
        for text in map(str.strip, _SCORES.findall(said))
        if _MARKS.fullmatch(text)
    }
    if len(lists) != 1:
        return None
    (marks,) = lists
    orders = {names for text in _POINTS.findall(said) if (names := _names(text)) is not None}
    if len(marks) != len(points) or len(orders) > 1:
        return None
    return _in_order(marks, next(iter(orders)), points) if orders else marks


def _in_order(marks: Sequence[int], names: Sequence[str], points: Sequence[str]) -> tuple[int, ...] | None:
    """The marks of `names` as those of `points`; None where that is not clear."""
    wanted = [_plain(point) for point in points]
    if list(names) == wanted:
        return tuple(marks)
    if Counter(names) != Counter(wanted) or len(set(names)) < len(names):
        return None
    by_name = dict(zip(names, marks))
    return tuple(by_name[name] for name in wanted)


def _names(text: str) -> tuple[str, ...] | None:
    """The names of a list; None for what is no list of texts, from which no order can be told."""
    try:
        value = ast.literal_eval(text.strip()) if len(text) <= _LONGEST else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    whole = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return tuple(map(_plain, value)) if whole and value else None


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()
