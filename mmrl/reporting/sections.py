"""The sections of a structured answer: what stands between a tag and its end, in a colour of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmrl.sections import ANSWER, SECTIONS

# What holds tags of its own is not coloured: the tags in it are.
_SECTION = re.compile(r"<([A-Za-z][\w-]{0,30})>[^<]*(?:<(?!/?[A-Za-z])[^<]*)*</\1>")
# Name -> number of its colour; others have the colours behind these, in the order in which they come.
_KNOWN = {name.lower(): number for number, name in enumerate((*SECTIONS, ANSWER), 1)} | {"answer": len(SECTIONS) + 1}
_COLOURS = 8


@dataclass(frozen=True)
class Piece:
    """A part of a text. name, colour: of its section, from 1; "" and 0 for words in none."""

    text: str
    name: str = ""
    colour: int = 0


def pieces(text: str) -> list[Piece]:
    """The text in parts, each of one section, its tags included."""
    found, end, others = [], 0, list[str]()
    for section in _SECTION.finditer(text):
        name = section[1]
        if name.lower() not in _KNOWN and name.lower() not in others:
            others.append(name.lower())
        found += [Piece(text[end : section.start()])] if section.start() > end else []
        found.append(Piece(section[0], name, _colour(name.lower(), others)))
        end = section.end()
    return [*found, Piece(text[end:])] if end < len(text) or not found else found


def sections_of(words: Sequence[str]) -> list[Piece]:
    """Of each word of a text, in order, the piece in which its first letter stands."""
    parts = pieces("".join(words))
    found, part, left = [], 0, len(parts[0].text)
    for word in words:
        while left <= 0 and part + 1 < len(parts):
            part += 1
            left += len(parts[part].text)
        found.append(parts[part])
        left -= len(word)
    return found


def _colour(name: str, others: Sequence[str]) -> int:
    if name in _KNOWN:
        return _KNOWN[name]
    first = max(_KNOWN.values()) + 1
    return first + others.index(name) % (_COLOURS - first + 1)
