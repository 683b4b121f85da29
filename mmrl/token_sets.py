"""MMAU's and MMAR's rule of a right answer: sets of words, no order, no case, no punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\b\w+\b")


def words_of(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def accepts(said: str, gold: str, options: Sequence[str]) -> bool:
    """Whether an answer has all words of the gold, and none that an option has and the gold has not.

    The published scorers' rule, with what it lets through: options that are the gold's words in another order or among
    more ("ninety-one" for "ninety"), and with what it refuses: a letter, unless an option is one.
    """
    found, wanted = words_of(said), words_of(gold)
    others = {word for option in options for word in words_of(option)} - wanted
    return bool(found) and wanted <= found and not found & others
