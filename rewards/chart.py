"""Answers to questions about charts: numbers within a relative tolerance, everything else as text."""

from __future__ import annotations

import re
from fractions import Fraction

from mmrl.types import Prompt, Sample, Score

from .answers import accepted_of, final_answer, lacks_answer, normalised, not_applicable, text_of
from .number import number_in

_DIGITS = re.compile(r"\d+(?:[.,/]\d+)*(?:[eE][-+]?\d+)?")
_YEAR = re.compile(r"[12]\d{3}")
_AROUND = re.compile(r"[\s$€£¥%()]|^(?:about|approximately|around|roughly)\b", re.IGNORECASE)


def relaxed(samples: list[Sample], extract: str = "auto", rtol: float = 0.05, exact_years: bool = False) -> list[Score]:
    """ChartQA's relaxed accuracy: 1 where the final answer is the record's `answer` (or one of its list), else 0.

    An accepted answer that is one number ("12.5", "$1,200", "34%") is met by a number within rtol of it; where only one
    of the two has a percent sign, 34% is 34 as well as 0.34. Any other is met by the same text, case, punctuation and
    articles aside. A final answer that names several numbers meets none.
    extract: how the final answer is found, see answers.final_answer. exact_years: accepted answers that look like a
    year (1000 to 2999) have no tolerance; 5 % of a year is a century, and ChartQA's measure allows it.
    Raises ValueError for an rtol below 0.
    """
    if rtol < 0:
        raise ValueError(f"rtol={rtol} must be 0 or more")
    return [_score(sample, extract, Fraction(rtol), exact_years) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    return lacks_answer(prompt)


def _score(sample: Sample, extract: str, rtol: Fraction, exact_years: bool) -> Score:
    if skipped := not_applicable(sample):
        return skipped
    answer = final_answer(text_of(sample), extract)
    if answer is None:
        return Score.of(0.0, answer="")
    golds = accepted_of(sample.prompt)
    met = any(_meets(answer, gold, 0 if exact_years and _YEAR.fullmatch(gold) else rtol) for gold in golds)
    return Score.of(float(met), answer=answer)


def _meets(answer: str, gold: str, rtol: Fraction | int) -> bool:
    if _plain(answer) == _plain(gold):
        return True
    said, wanted = _number(answer), _number(gold) if _is_number(gold) else None
    if said is None or wanted is None:
        return False
    pairs = [(said, wanted)]
    if "%" in answer and "%" not in gold:
        pairs.append((said * 100, wanted))
    if "%" in gold and "%" not in answer:
        pairs.append((said, wanted * 100))
    return any(abs(a - b) <= rtol * abs(b) for a, b in pairs)


def _number(text: str) -> Fraction | None:
    """The one number of a text; None for none or several."""
    return number_in(text.rstrip(" .")) if len(_DIGITS.findall(text)) == 1 else None


def _is_number(text: str) -> bool:
    bare = _AROUND.sub("", _DIGITS.sub("", text))
    return number_in(text) is not None and not re.search(r"[^\W\d_]", bare)


def _plain(text: str) -> str:
    return normalised(text, punctuation=False, articles=False)
