"""Multiple choice: options that are options, and an answer that is one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.near import short

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def check_options(record: Mapping[str, Any]) -> None:
    """Raise ValueError for `choices` that are no list of two or more different texts, and for an `answer` that is none
    of them, neither by its text nor by its letter. A record without `choices` has nothing to be wrong."""
    choices = record.get("choices")
    if choices is None:
        return
    texts = options_in(choices)
    if len(texts) < 2:
        raise ValueError(f"`choices` has {len(texts)} options, expected two or more")
    seen: dict[str, int] = {}
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"option {number} of `choices` is {short(text)}, expected a text that is not empty")
        first = seen.setdefault(plain(text), number)
        if first != number:
            raise ValueError(f"options {first} and {number} of `choices` are the same: {short(text)}")
    answer = record.get("answer")
    if answer is not None and not is_option(answer, texts):
        raise ValueError(f"`answer` is {short(answer)}, which is none of the options {short(list(texts))}")


def options_in(choices: Any) -> list[Any]:
    """The texts of `choices`, a list or an object of letters. Raises ValueError for anything else."""
    if isinstance(choices, Mapping):
        return [text for text in choices.values() if text is not None]
    if isinstance(choices, list | tuple):
        return list(choices)
    raise ValueError(f"`choices` is {type(choices).__name__}, expected a list of options or an object of letters")


def is_option(answer: Any, texts: list[str]) -> bool:
    """Whether an answer is the text of an option, case and spaces aside, its letter, or both ("B. Paris")."""
    if not isinstance(answer, str):
        return False
    told = _folded(answer)
    if any(told in (_folded(text), plain(text)) for text in texts):
        return True
    found = re.fullmatch(r"\s*[(\[]?([A-Za-z])(?:[)\].:]*|[)\].:]+\s*(.+))\s*", answer, re.DOTALL)
    if found is None:
        return False
    place = LETTERS.index(found[1].upper())
    return place < len(texts) and (found[2] is None or plain(found[2]) == plain(texts[place]))


def plain(text: str) -> str:
    """Equal for texts that differ in case, spaces and a letter before them alone."""
    return _folded(re.sub(r"^\s*[(\[]?[A-Z][)\].:]\s+", "", text))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
