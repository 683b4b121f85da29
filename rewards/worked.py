"""How much of a written calculation is right: a process reward for datasets/arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmrl.types import Prompt, Sample, Score

from .answers import text_of

_LINE = re.compile(r"(\d{1,20})([-+*])(\d{1,20}) (.*?) ?=(\d{1,40})")
_PROBLEM = re.compile(r"[\d(][\d()+* -]{0,200}")
_TOKEN = re.compile(r"\d+|[-+*()]")
_MOST_LINES = 200

Term = int | tuple[str, list["Term"]]  # a number, or an operation and its two or more terms


def steps(samples: list[Sample]) -> list[Score]:
    """Share of the written pieces that are right, in [0, 1]: the columns of each line, and its result.

    A line is "left operation right", its columns from the lowest digit, each with the carry that is due, and "=result":
    "37+58 7+8=15 3+5+1=9 =95". It must be a step of the prompt's problem ("37+58+26="): an operation that is due on
    numbers that the problem, or the result of a line before, gives for it. The terms of a sum, and those of a product,
    come in any order. A piece is right if it is what its own line asks for, so that a result that was wrong before is
    no second mistake. All pieces of a line that is no such step are wrong; columns and lines that are missing count as
    wrong pieces, too.
    A text without a line scores 0, and a prompt without a problem is not applicable.
    """
    return [_score(sample) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why `steps` cannot score this prompt, or None; to be asked before training."""
    if problem(prompt.text) is None:
        return f"prompt {prompt.id!r} holds no problem such as 37+58*2= to calculate: {prompt.text[:60]!r}"
    return None


def problem(text: str) -> Term | None:
    """The last calculation of whole numbers with + - * and brackets that a text holds; None without one."""
    for found in reversed(_PROBLEM.findall(text)):
        tokens = _TOKEN.findall(found.rstrip(" +-*("))
        term = _sum(tokens)
        if isinstance(term, tuple) and not tokens:
            return term
    return None


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


def _score(sample: Sample) -> Score:
    left_to_do = problem(sample.prompt.text)
    if left_to_do is None:
        return Score(None, check_prompt(sample.prompt) or "", "na")
    lines, right, pieces = _lines(text_of(sample)), 0, 0
    for left, operation, between, columns, result in lines:
        written, due = columns.split(), column_by_column(left, operation, between)
        pieces += max(len(written), len(due)) + 1
        follows, left_to_do = _step(left_to_do, left, operation, between, result)
        if follows:
            value = _value(left, operation, between)
            right += sum(a == b for a, b in zip(written, due)) + (result == value)
    if lines:
        pieces += sum(len(column_by_column(*line)) + 1 for line in _due(left_to_do))
    return Score.of(right / pieces if pieces else 0.0, pieces=pieces, right=right)


def _lines(text: str) -> list[tuple[int, str, int, str, int]]:
    found = [_LINE.fullmatch(line.strip()) for line in text.splitlines()]
    return [(int(m[1]), m[2], int(m[3]), m[4], int(m[5])) for m in found if m][:_MOST_LINES]


def _value(left: int, operation: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[operation]


# -------------------------------------------------------------------- the problem, and what is left of it


def _sum(tokens: list[str]) -> Term | None:
    """The term that the tokens begin with, which are taken from the list; None where they are none."""
    term = _product(tokens)
    while term is not None and tokens and tokens[0] in "+-":
        operation, other = tokens.pop(0), _product(tokens)
        term = None if other is None else _joined(operation, term, other)
    return term


def _product(tokens: list[str]) -> Term | None:
    term = _single(tokens)
    while term is not None and tokens and tokens[0] == "*":
        tokens.pop(0)
        other = _single(tokens)
        term = None if other is None else _joined("*", term, other)
    return term


def _single(tokens: list[str]) -> Term | None:
    token = tokens.pop(0) if tokens else ""
    if token != "(":
        return int(token) if token.isdigit() else None
    term = _sum(tokens)
    return term if tokens and tokens.pop(0) == ")" else None


def _joined(operation: str, term: Term, other: Term) -> Term:
    """Sums of sums, and products of products, as one of many terms: which are taken first is free."""
    if operation != "-" and isinstance(term, tuple) and term[0] == operation:
        return operation, [*term[1], other]
    return operation, [term, other]


def _step(term: Term, left: int, operation: str, right: int, result: int) -> tuple[bool, Term]:
    """Whether the line is a step of what is left to do, and what is left after it."""
    if isinstance(term, int):
        return False, term
    here, terms = term
    if here == operation:
        for place in (i for i, one in enumerate(terms) if one == left):
            others = (i for i, one in enumerate(terms) if one == right and (i > place or (i != place and here != "-")))
            if (other := next(others, None)) is not None:
                rest = [one for i, one in enumerate(terms) if i not in (place, other)]
                rest.insert(min(place, other), result)
                return True, rest[0] if len(rest) == 1 else (here, rest)
    for place, one in enumerate(terms):
        follows, after = _step(one, left, operation, right, result)
        if follows:
            return True, (here, [*terms[:place], after, *terms[place + 1 :]])
    return False, term


def _due(term: Term) -> Iterator[tuple[int, str, int]]:
    """The lines that are still to be written, from the left."""
    while isinstance(term, tuple):
        left, operation, right = _next(term)
        yield left, operation, right
        term = _step(term, left, operation, right, max(0, _value(left, operation, right)))[1]


def _next(term: tuple[str, list[Term]]) -> tuple[int, str, int]:
    for one in term[1]:
        if isinstance(one, tuple):
            return _next(one)
    left, right = term[1][:2]
    assert isinstance(left, int)
    assert isinstance(right, int)
    return left, term[0], right
