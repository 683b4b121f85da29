"""Answers that are voted on: rewards without labels, for the shapers `majority_vote` and `co_reward`."""

from __future__ import annotations

import re

from mmrl.types import Sample, Score

from .answers import final_answer, normalised, text_of
from .number import number_in

_PLAIN = r"[\d.,]+(?:[eE][-+]?\d+)?(?: ?/ ?\d+)?(?:\\?%)?"
_LATEX = r"\d*\s*\\[dtc]?frac\s*(?:\{\s*-?[\d.]+\s*\}|\d)\s*(?:\{\s*-?[\d.]+\s*\}|\d)"
_ONE_NUMBER = re.compile(rf"[-+\N{{MINUS SIGN}}\N{{EN DASH}}]?\s*\\?\$?(?:{_LATEX}|{_PLAIN})", re.ASCII)
_AROUND = " \t\n\r.,;:?*_`$\"'\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}。"
_ONE_IN_BRACKETS = re.compile(r"[(\[]\s*(\w+)\s*[)\]][.:]?")
_CALL = re.compile(r"(?<=[^\W\d]{2})!+$")  # after a word; x! is a factorial
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"(?<=[^\w\s]) | (?=[^\w\s])")  # those beside an operator
NO_ANSWER = -1


def answer(samples: list[Sample], extract: str = "auto") -> list[Score]:
    """1 where there is a final answer, else 0; its detail `vote` is what `algorithm.shape: majority_vote` counts.

    Answers are one where they are equal without case, articles, white space beside operators and the
    punctuation and markdown around them, or as numbers (0.50 is
    1/2); "(B)" is "b". No answer is -1, which gets no vote. It needs no column of the record: SPINE and TTRL train so.
    extract: how the final answer is found, see answers.final_answer.
    """
    said = [_normal(final_answer(text_of(sample), extract)) for sample in samples]
    return [Score.of(float(text is not None), vote=NO_ANSWER if text is None else text) for text in said]


def _normal(text: str | None) -> str | None:
    if not text or not any(c.isalnum() for c in text):
        return None
    bare = _outer(text)
    number = number_in(bare) if _ONE_NUMBER.fullmatch(bare) else None
    if number is not None:
        return str(number)
    plain = normalised(_TEXT.sub(r"\1", bare), articles=False)
    return _SPACES.sub("", plain)


def _outer(text: str) -> str:
    """The text without the punctuation, dollars and markdown around it, and without brackets around one word."""
    bare = _CALL.sub("", text.strip(_AROUND))
    if bracketed := _ONE_IN_BRACKETS.fullmatch(bare):
        return bracketed[1]
    return bare.removeprefix("\\(").removesuffix("\\)").strip(_AROUND)
