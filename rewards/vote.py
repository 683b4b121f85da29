"""Answers that are voted on: rewards without labels, for the shapers `majority_vote` and `co_reward`."""

from __future__ import annotations

import re

from mmrl.types import Sample, Score

from .answers import final_answer, normalised, text_of
from .latex import number_in

_ONE_NUMBER = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?(?: ?/ ?\d+)?%?", re.ASCII)
NO_ANSWER = -1


def answer(samples: list[Sample], extract: str = "auto") -> list[Score]:
    """1 where there is a final answer, else 0; its detail `vote` is what `algorithm.shape: majority_vote` counts.

    Answers are one where they are equal without case, punctuation, articles and white space, or as numbers (0.50 is
    1/2); "(B)" is "b". No answer is -1, which gets no vote. It needs no column of the record: SPINE and TTRL train so.
    extract: how the final answer is found, see answers.final_answer.
    """
    said = [_normal(final_answer(text_of(sample), extract)) for sample in samples]
    return [Score.of(float(text is not None), vote=NO_ANSWER if text is None else text) for text in said]


def _normal(text: str | None) -> str | None:
    if not text or not any(c.isalnum() for c in text):
        return None
    plain = normalised(text, punctuation=False, articles=False)
    bare = text.strip(" .$")
    number = number_in(bare) if _ONE_NUMBER.fullmatch(bare) else None
    return plain if number is None else str(number)
