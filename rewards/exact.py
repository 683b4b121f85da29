"""Exact match with the record's `answer`."""

from __future__ import annotations

import string
import unicodedata

from mmrl.types import Prompt, Sample, Score

from .answers import final_answer, gold_of, lacks_answer, not_applicable, text_of

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def match(samples: list[Sample], extract: str = "auto", case: bool = False, punctuation: bool = True) -> list[Score]:
    """1 where the final answer equals the record's `answer` (or one of its list), else 0.

    Compared after Unicode normalisation (NFKC), with runs of white space as one space.
    extract: how the final answer is found, see answers.final_answer. case, punctuation: whether they count.
    """
    return [_score(sample, extract, case, punctuation) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    return lacks_answer(prompt)


def _score(sample: Sample, extract: str, case: bool, punctuation: bool) -> Score:
    if skipped := not_applicable(sample):
        return skipped
    answer = final_answer(text_of(sample), extract)
    if answer is None:
        return Score.of(0.0, answer="")
    accepted = {_normal(gold, case, punctuation) for gold in gold_of(sample.prompt)}
    return Score.of(float(_normal(answer, case, punctuation) in accepted), answer=answer)


def _normal(text: str, case: bool, punctuation: bool) -> str:
    text = unicodedata.normalize("NFKC", text)
    if not case:
        text = text.casefold()
    if not punctuation:
        text = text.translate(_PUNCTUATION)
    return " ".join(text.split())
