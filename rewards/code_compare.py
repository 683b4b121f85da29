"""Whether what a program printed or returned is what was expected."""

from __future__ import annotations

import json
import math
from typing import Any

from mmrl.sandbox.outcome import one_line
from mmrl.sandbox.runners.values import decoded


def same_text(said: str, expected: str, tolerance: float) -> bool:
    """Line by line and word by word: white space at ends does not count, nor do empty lines at the end.

    tolerance: relative, for words that are decimals where one is expected (0.30000001 for 0.3).
    """
    lines, right = (_words(text) for text in (said, expected))
    if len(lines) != len(right):
        return False
    return all(
        len(mine) == len(theirs) and all(_same_word(a, b, tolerance) for a, b in zip(mine, theirs))
        for mine, theirs in zip(lines, right)
    )


def _words(text: str) -> list[list[str]]:
    lines = [line.split() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_word(said: str, expected: str, tolerance: float) -> bool:
    if said == expected:
        return True
    if "." not in expected:
        return False
    try:
        mine, right = float(said), float(expected)
    except ValueError:
        return False
    return _near(mine, right, tolerance)


def _near(said: float, expected: float, tolerance: float) -> bool:
    return math.isfinite(said) and abs(said - expected) <= tolerance * max(1.0, abs(expected))


def value_in(output: bytes) -> Any:
    """The value that a call returned. Raises ValueError where it raised, or where the bytes are no answer."""
    try:
        answer = json.loads(output)
        if "raised" in answer:
            raise ValueError(one_line(f"{answer['raised']}: {answer.get('text', '')}"))
        return decoded(answer["value"])
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("what the call handed back is no value") from error


def same_value(said: Any, expected: Any, tolerance: float) -> bool:
    """Equality as JSON has it: a tuple is a list, keys are texts; floats to a relative tolerance."""
    if isinstance(said, list | tuple) and isinstance(expected, list | tuple):
        return len(said) == len(expected) and all(same_value(a, b, tolerance) for a, b in zip(said, expected))
    if isinstance(said, dict) and isinstance(expected, dict):
        mine, right = ({str(key): value for key, value in some.items()} for some in (said, expected))
        return mine.keys() == right.keys() and all(same_value(mine[key], right[key], tolerance) for key in right)
    if isinstance(expected, float) and isinstance(said, int | float) and not isinstance(said, bool):
        try:
            return said == expected or _near(float(said), expected, tolerance)
        except OverflowError:
            return False
    return type(said) in (int, float, bool, str, type(None)) and bool(said == expected)
