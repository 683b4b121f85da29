"""Countdown: an expression of given numbers that evaluates to a target. Expressions are read, never executed."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from fractions import Fraction

from mmrl.types import Prompt, Sample, Score

from .answers import readings, text_of
from .latex import arithmetic

_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_MOST_CHARACTERS = 300
_MOST_OF_LATEX = 1000
_OPERATOR = re.compile(r"[-+*/×÷−·]|\\(?:times|cdot|div|[dt]?frac)")


class NoExpression(ValueError):
    """A text is no expression of whole numbers, + - * / and brackets; the message says why."""


def solves(samples: list[Sample], extract: str = "auto", all_numbers: bool = True, partial: float = 0.0) -> list[Score]:
    """1 where the final answer is an expression of the record's `numbers`, each once, that equals its `target`.

    LaTeX, markdown and the signs for times and divided by are read, brackets of all kinds too. Of an equation the first
    side with a calculation counts; arithmetic is exact. `partial` is the score of an expression that uses the numbers
    as it must and misses the target (0.1 is a common choice); anything else scores 0.
    extract: how the final answer is found, see answers.readings; the first that is an expression.
    all_numbers: False lets numbers be left out.
    """
    return [_score(sample, extract, all_numbers, partial) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why `solves` cannot score this prompt, or None; to be asked before training."""
    numbers, target = prompt.record.get("numbers"), prompt.record.get("target")
    whole = isinstance(numbers, list | tuple) and all(type(n) is int and n >= 0 for n in numbers)
    if not whole or not numbers or type(target) is not int:
        return f"prompt {prompt.id!r} needs `numbers` (a list of whole numbers, 0 or more) and a whole `target`"
    return None


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """(value, numbers used in order) of an expression such as "(25 - 3) * 4".

    Also in LaTeX: \\left(25 - 3\\right) \\times \\frac{8}{2}. Raises NoExpression for anything but whole numbers,
    + - * / and brackets, for a division by zero, and over 300 characters.
    """
    if len(expression) > _MOST_OF_LATEX:
        raise NoExpression(f"over {_MOST_OF_LATEX} characters")
    expression = arithmetic(expression)
    if len(expression) > _MOST_CHARACTERS:
        raise NoExpression(f"over {_MOST_CHARACTERS} characters")
    if strange := re.search(r"[^0-9 +*/()-]", expression):
        raise NoExpression(f"holds {strange[0]!r}")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise NoExpression(f"not readable: {type(error).__name__}") from None
    numbers: list[int] = []
    return _value(tree, numbers), numbers


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        if isinstance(node.op, ast.Div) and right == 0:
            raise NoExpression("division by zero")
        return _OPERATIONS[type(node.op)](left, right)
    raise NoExpression(f"{type(node).__name__} is not allowed")


def _score(sample: Sample, extract: str, all_numbers: bool, partial: float) -> Score:
    if reason := check_prompt(sample.prompt):
        return Score(None, reason, "na")
    numbers, target = sample.prompt.record["numbers"], sample.prompt.record["target"]
    answer, why = "", "no answer"
    for said in readings(text_of(sample), extract):
        answer = _calculation(said)
        try:
            value, used = evaluate(answer)
            break
        except NoExpression as error:
            why = str(error)
    else:
        return Score.of(0.0, answer=answer, why=why)
    allowed = Counter(used) == Counter(numbers) if all_numbers else Counter(used) <= Counter(numbers)
    if not allowed:
        return Score.of(0.0, answer=answer, why=f"uses {used}, given are {list(numbers)}")
    return Score.of(1.0 if value == target else partial, answer=answer, result=str(value))


def _calculation(said: str) -> str:
    """The first side of an equation that calculates, or else the first: "3 + 5" of "3 + 5 = 8" and of "8 = 3 + 5"."""
    sides = [side.strip() for side in said.split("=")]
    return next((side for side in sides if _OPERATOR.search(side) and any(c.isdigit() for c in side)), sides[0])
