"""What a reward returned, read as one Score for each sample, whatever it is."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Set, Sized
from itertools import islice
from typing import Any

from mmrl.types import Score

_LONGEST = 300  # characters of a reason that a reward gave


def scores_in(returned: Any, count: int) -> list[Score]:
    """One Score for each of `count` samples, in order.

    Numbers may be in a list, a tuple, an iterator, or an array or tensor of the shape (count,). What has no order (a
    set), what is a dict or a text, and another number of scores is invalid for all samples; a value that is no finite
    real number for its own. Everything is copied: what the reward does with its objects later changes no score.
    """
    values = _listed(returned, count)
    if isinstance(values, str):
        wanted = f"expected {_scores(count)} in the samples' order, each a number, or None where it does not apply"
        return [Score.invalid(f"returned {values}; {wanted}")] * count
    return [_score(value) for value in values]


def one_line(words: str) -> str:
    """The words on one line, cut short."""
    line = " ".join(words.split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."


def _listed(returned: Any, count: int) -> list[Any] | str:
    """The values, or what was returned instead of them."""
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"{kind} with the keys {', '.join(map(_shown, islice(returned, 5)))}"
    if isinstance(returned, Set):
        return f"{kind}, which has no order"
    if isinstance(returned, str):
        return f"the text {_shown(returned)}"
    if isinstance(returned, bytes | bytearray | memoryview | type):
        return f"{kind} {_shown(returned)}"
    shape = getattr(returned, "shape", None)
    if shape is not None and tuple(shape) != (count,):  # an array or a tensor, of whatever library
        return f"{kind} of the shape {tuple(shape)}"
    if shape is not None and hasattr(returned, "tolist"):
        return list(returned.tolist())
    try:
        values = iter(returned)
    except TypeError:
        return f"{kind} {_shown(returned)}"
    found = list(islice(values, count + 1))  # an iterator may have no end
    if len(found) > count:
        return _scores(len(returned)) if isinstance(returned, Sized) else f"over {_scores(count)}"
    return found if len(found) == count else _scores(len(found))


def _score(value: Any) -> Score:
    if not isinstance(value, Score):
        try:
            return Score.of(value)
        except BaseException as error:  # of the value's own, as it was asked for a number
            return Score.invalid(f"returned {type(value).__name__}, which gave no number: {type(error).__name__}")
    if not isinstance(value.details, Mapping):
        return Score.invalid(f"returned a Score whose details are {type(value.details).__name__}, expected a mapping")
    details = dict(value.details)
    if value.status == "invalid":
        return Score(None, one_line(str(value.reason)) or "invalid, without a reason", "invalid", details)
    if value.status == "na":
        return Score(None, one_line(str(value.reason)) or "not applicable", "na", details)
    if value.status != "ok":
        return Score.invalid(f"returned a Score of the status {_shown(value.status)}, expected ok, na or invalid")
    if value.value is None or isinstance(value.value, Score):
        return Score.invalid("returned a Score without a value that is not marked as not applicable")
    number = _score(value.value)
    return Score(number.value, value.reason, details=details) if number.ok else number


def _scores(count: int) -> str:
    return "1 score" if count == 1 else f"{count} scores"


def _shown(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except BaseException:  # of the value's own; a whole number of 5,000 digits is not written out either
        return "that cannot be shown"
