"""A number close to the record's `answer`."""

from __future__ import annotations

from fractions import Fraction

from mmrl.types import Prompt, Sample, Score

from .answers import gold_of, lacks_answer, not_applicable, readings, text_of
from .number import number_in, numbers_named


def close(samples: list[Sample], extract: str = "auto", rtol: float = 0.0, atol: float = 1e-6) -> list[Score]:
    """1 where |number - answer| <= atol + rtol * |answer|, else 0.

    The number is what number.number_in reads in the final answer: one of a list or of a calculation is none.
    Differences are exact (of fractions), so that 0.1 + 0.2 is 0.3 with atol=0. A text without a number scores 0; an
    `answer` without one is invalid. rtol=0.05 is ChartQA's relaxed accuracy.
    extract: how the final answer is found, see answers.readings; the first that holds a number.
    """
    if rtol < 0 or atol < 0:
        raise ValueError(f"rtol={rtol}, atol={atol}: both must be 0 or more")
    return [_score(sample, extract, Fraction(rtol), Fraction(atol)) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why `close` cannot score this prompt, or None; to be asked before training."""
    return lacks_answer(prompt) or (None if _numbers(prompt) else _no_number(prompt))


def _score(sample: Sample, extract: str, rtol: Fraction, atol: Fraction) -> Score:
    if skipped := not_applicable(sample):
        return skipped
    accepted = _numbers(sample.prompt)
    if not accepted:
        return Score.invalid(_no_number(sample.prompt))
    number = _said(text_of(sample), extract)
    if number is None:
        return Score.of(0.0, number="")
    return Score.of(float(any(abs(number - gold) <= atol + rtol * abs(gold) for gold in accepted)), number=str(number))


def _said(text: str, extract: str) -> Fraction | None:
    """The number of the first reading that names any; None where that one names several, or a part of something."""
    first = next((piece for piece in readings(text, extract) if numbers_named(piece)), None)
    return number_in(first)


def _numbers(prompt: Prompt) -> list[Fraction]:
    return [number for gold in gold_of(prompt) if (number := number_in(gold)) is not None]


def _no_number(prompt: Prompt) -> str:
    return f"prompt {prompt.id!r}: `answer` {', '.join(map(repr, gold_of(prompt)))} holds no number"
