"""Multiple choice: the column `choices`, which option a text is, and records whose options are wrong."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmrl.near import short

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
    """The texts of `choices`: a list, an object of letters, or one of `label` and `text` (ARC). Raises ValueError for
    anything else. Gaps behind the last letter are no options, as in tables whose questions have fewer or more."""
    if isinstance(choices, Mapping):
        if isinstance(choices.get("text"), list | tuple):
            return list(choices["text"])
        named = {str(name): text for name, text in choices.items()}
        if all(len(name) == 1 and name in ALPHABET for name in named):
            last = max((ALPHABET.index(name) for name, text in named.items() if text is not None), default=-1)
            return [named.get(name) for name in ALPHABET[: last + 1]]
        return [text for text in choices.values() if text is not None]
    if isinstance(choices, list | tuple):
        return list(choices)
    raise ValueError(f"`choices` is {type(choices).__name__}, expected a list of options or an object of letters")


def bare_options(choices: Any) -> list[str]:
    """The texts of `choices` in the order shown, without their letters where each begins with its own; "" for a gap,
    [] for what is no options."""
    try:
        texts = ["" if text is None else str(text) for text in options_in(choices)]
    except ValueError:
        return []
    marks = [re.match(rf"\s*[(\[]?{name}[)\].:]+\s*", text) for name, text in zip(ALPHABET, texts)]
    if len(marks) < len(texts) or not all(marks):  # "A. M." beside "P. M." is a text
        return texts
    return [text[mark.end() :] for text, mark in zip(texts, marks) if mark]


def places_of(text: str, options: Sequence[str], plain: Callable[[str], str]) -> list[int]:
    """Where the option stands that a text is, several times where it stands there several times; [] for none.

    It is one but for case and white space, or, if none is so, one that is equal in its `plain` form. That forgets what
    tells some options apart (C and C#, A+ and A-), so it decides nothing between different ones, nor about a letter.
    """
    same = [place for place, option in enumerate(options) if option and _closely(option) == _closely(text)]
    if same or re.fullmatch(r"\W*[A-Za-z]\W*", text):
        return same
    alike = [place for place, option in enumerate(options) if option and plain(option) == plain(text)]
    return alike if len({_closely(options[place]) for place in alike}) == 1 else []


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
    place = ALPHABET.index(found[1].upper())
    return place < len(texts) and (found[2] is None or plain(found[2]) == plain(texts[place]))


def plain(text: str) -> str:
    """Equal for texts that differ in case, spaces and a letter before them alone."""
    return _folded(re.sub(r"^\s*[(\[]?[A-Z][)\].:]\s+", "", text))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _closely(text: str) -> str:
    return _folded(unicodedata.normalize("NFKC", text))
