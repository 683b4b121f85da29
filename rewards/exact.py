"""Exact match with the record's `answer`."""

from __future__ import annotations

import re

from mmrl.types import Prompt, Sample, Score

from .answers import accepted_of, lacks_answer, normalised, not_applicable, readings, text_of
from .latex import plain_text

_NAMED = re.compile(r"[A-Za-z](?:_?\w)? ?= ?(?!=)")
_VERDICTS = ("yes", "no", "true", "false")
_VERDICT = re.compile(r"(yes|no|true|false)(?= ?[,.:;!—–-]|$)", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def match(
    samples: list[Sample], extract: str = "auto", case: bool = False, punctuation: bool = True, articles: bool = True
) -> list[Score]:
    """1 where the final answer equals the record's `answer` (or one of its list, or of `possible_answers`), else 0.

    Compared after Unicode normalisation (NFKC), with runs of white space as one space, and LaTeX as plain text
    (\\frac{1}{2} is 1/2, \\text{cat} is cat). Yes, no, true and false may be followed by a reason; "x = 5" is 5.
    extract: how the final answer is found, see answers.readings. case, punctuation, articles (a, an, the): whether
    they count; decimal points and signs of numbers always do.
    """
    return [_score(sample, extract, case, punctuation, articles) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    return lacks_answer(prompt)


def _score(sample: Sample, extract: str, case: bool, punctuation: bool, articles: bool) -> Score:
    if skipped := not_applicable(sample):
        return skipped
    said = readings(text_of(sample), extract)
    if not said:
        return Score.of(0.0, answer="")

    def plain(text: str) -> str:
        return normalised(plain_text(text).rstrip(" .。．"), case, punctuation, articles)

    golds = {plain(gold) for gold in accepted_of(sample.prompt)}
    # What is said stands twice: up to its reason or the next sentence, and with them.
    answers = [text for text in said[:2] if text.startswith(said[0])]
    met = any(_equal(plain(answer), gold) for answer in answers for gold in golds)
    return Score.of(float(met), answer=said[0])


def _equal(answer: str, gold: str) -> bool:
    if answer == gold:
        return True
    if gold.casefold() in _VERDICTS and (found := _VERDICT.match(answer)):
        others = set(_WORD.findall(answer[found.end() :].casefold())) & set(_VERDICTS)
        return found[1].casefold() == gold.casefold() and not others
    # x = 5 is 5, where only one of the two has a name.
    (named, value), (gold_named, gold_value) = _value(answer), _value(gold)
    return named != gold_named and value == gold_value


def _value(text: str) -> tuple[bool, str]:
    """(whether it begins with "x =", what follows)."""
    found = _NAMED.match(text)
    return bool(found), text[found.end() :] if found else text
