"""How much of a written calculation is right: a process reward for datasets/arithmetic."""

from __future__ import annotations

import re

from mmrl.types import Sample, Score

from .answers import text_of

_LINE = re.compile(r"(\d+)([-+*])(\d+) (.*?) ?=(\d+)")


def steps(samples: list[Sample]) -> list[Score]:
    """Share of the written pieces that are right, in [0, 1]: the columns of each line, and its result.

    A line is "left operation right", its columns from the lowest digit, each with the carry that is due, and "=result":
    "37+58 7+8=15 3+5+1=9 =95". A piece is right if it is what its own line asks for, so that a number that was copied
    from a wrong line before is no second mistake. Columns that are missing or too many are wrong pieces. A text
    without such a line scores 0.
    """
    return [_score(text_of(sample)) for sample in samples]


def _score(text: str) -> Score:
    right = pieces = 0
    for left, operation, between, columns, result in _lines(text):
        written, due = columns.split(), column_by_column(left, operation, between)
        value = {"+": left + between, "-": left - between, "*": left * between}[operation]
        right += sum(a == b for a, b in zip(written, due)) + (result == value)
        pieces += max(len(written), len(due)) + 1
    return Score.of(right / pieces if pieces else 0.0, pieces=pieces, right=right)


def _lines(text: str) -> list[tuple[int, str, int, str, int]]:
    found = [_LINE.fullmatch(line.strip()) for line in text.splitlines()]
    return [(int(m[1]), m[2], int(m[3]), m[4], int(m[5])) for m in found if m]


def column_by_column(left: int, operation: str, right: int) -> list[str]:
    """The columns as they are written on paper, lowest digit first; a factor `right` is taken whole."""
    tops, bottoms = str(left)[::-1], str(right)[::-1]
    width = len(tops) if operation == "*" else max(len(tops), len(bottoms))
    columns, carry = [], 0
    for place in range(width):
        top = int(tops[place]) if place < len(tops) else 0
        bottom = right if operation == "*" else int(bottoms[place]) if place < len(bottoms) else 0
        if operation == "-":
            borrow = top - carry < bottom
            top += 10 * borrow
            columns.append(f"{top}{f'-{carry}' if carry else ''}-{bottom}={top - carry - bottom}")
            carry = int(borrow)
        else:
            found = (top * bottom if operation == "*" else top + bottom) + carry
            columns.append(f"{top}{operation}{bottom}{f'+{carry}' if carry else ''}={found}")
            carry = found // 10
    return columns
