"""The options of multiple choice, and which of them a text is."""

from __future__ import annotations

import re

from mmrl.data.options import ALPHABET, bare_options, places_of
from mmrl.types import Prompt

from .answers import normalised


def texts_of(prompt: Prompt, letters: str = ALPHABET) -> list[str]:
    """The options of `choices`, as many as there are letters, in the order shown, each without its letter."""
    return bare_options(prompt.record.get("choices"))[: len(letters)]


def places_in(text: str, options: list[str]) -> list[int]:
    """Where the option stands that a text is, case, white space and, where it tells none apart, punctuation aside."""
    return places_of(text, options, _plain)


def letter_of(text: str, options: list[str], letters: str) -> str | None:
    """The letter of the one option whose text this is; None for none, and for one that stands there twice."""
    places = places_in(text, options)
    return letters[places[0]] if len(places) == 1 else None


def unlettered(text: str, options: list[str]) -> str:
    """The option that a text is with its own letter before it, as it is shown ("B. a dog"); any other text as it is."""
    found = re.match(r"\s*[(\[]?([A-Za-z])[)\].:]+\s*(?=\S)", text)
    place = ALPHABET.index(found[1].upper()) if found else len(options)
    if found is None or place >= len(options):
        return text
    said = text[found.end() :]
    return options[place] if place in places_in(said, options) or said == options[place] else text


def _plain(text: str) -> str:
    return normalised(text, punctuation=False)
