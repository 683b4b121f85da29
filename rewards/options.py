"""The options of multiple choice: the column `choices`, and which of them a text is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.types import Prompt

from .answers import normalised

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def texts_of(prompt: Prompt, letters: str = ALPHABET) -> list[str]:
    """The options of `choices`, as many as there are letters, in the order shown, each without its letter."""
    named = zip(letters, _options(prompt.record.get("choices") or ()))
    return [re.sub(rf"^\s*\(?{re.escape(name)}[.):]\s*", "", str(option)) for name, option in named]


def letter_of(text: str, options: list[str], letters: str) -> str | None:
    """The letter of the one option whose text this is, case and punctuation aside; None for none, and for several."""
    same = [name for name, option in zip(letters, options) if option and plain(option) == plain(text)]
    return same[0] if len(same) == 1 else None


def unlettered(text: str, options: list[str]) -> str:
    """The option that a text is with its own letter before it, as it is shown ("B. a dog"); any other text as it is."""
    found = re.match(r"\s*[(\[]?([A-Za-z])[)\].:]+\s*(?=\S)", text)
    place = ALPHABET.index(found[1].upper()) if found else len(options)
    if found is None or place >= len(options) or plain(text[found.end() :]) != plain(options[place]):
        return text
    return options[place]


def plain(text: str) -> str:
    """An option as it is compared: case, punctuation and white space aside."""
    return normalised(text, punctuation=False)


def _options(choices: Any) -> list[Any]:
    """The texts of `choices`: a list, an object of letters (MGPO), or one of `label` and `text` (ARC)."""
    if isinstance(choices, Mapping):
        texts = choices.get("text")
        return list(texts) if isinstance(texts, list) else list(choices.values())
    return list(choices) if isinstance(choices, list | tuple) else []
