"""Exact match with the record's `answer`."""

from __future__ import annotations

import re

from mmrl.types import Prompt, Sample, Score

from .answers import accepted_of, final_answer, lacks_answer, normalised, not_applicable, text_of

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")


def match(
    samples: list[Sample], extract: str = "auto", case: bool = False, punctuation: bool = True, articles: bool = True
) -> list[Score]:
    """1 where the final answer equals the record's `answer` (or one of its list, or of `possible_answers`), else 0.

    Compared after Unicode normalisation (NFKC), with runs of white space as one space, without a \\text{} around all.
    extract: how the final answer is found, see answers.final_answer. case, punctuation, articles (a, an, the): whether
    they count; decimal points and signs of numbers always do.
    """
    return [_score(sample, extract, case, punctuation, articles) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    return lacks_answer(prompt)


def _score(sample: Sample, extract: str, case: bool, punctuation: bool, articles: bool) -> Score:
    if skipped := not_applicable(sample):
        return skipped
    answer = final_answer(text_of(sample), extract)
    if answer is None:
        return Score.of(0.0, answer="")
    accepted = {normalised(_plain(gold), case, punctuation, articles) for gold in accepted_of(sample.prompt)}
    return Score.of(float(normalised(_plain(answer), case, punctuation, articles) in accepted), answer=answer)


def _plain(text: str) -> str:
    """What LaTeX's \\text{...} holds where that is all of the text."""
    found = _TEXT.fullmatch(text)
    return (found[1].rstrip(" .。．") if found else "") or text
