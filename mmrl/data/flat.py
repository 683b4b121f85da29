"""Records of plain columns alone: those that are alike are checked by what the first of them came to.

Most records of a large file have the same columns, with a text or a number in each. For them the long way from a raw
record to ours ends where it began, and whether it does is told by the columns, by their types, and by a few things
that texts may hold. So the long way is gone once for each set of columns, and the others are asked for these things.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmrl.data.heard import SAID, named_like_a_sound
from mmrl.data.messages import MESSAGES
from mmrl.media import IMAGE, SOUND_COLUMNS

_KINDS = frozenset({str, int, float, bool, type(None)})
# Columns that the long way reads, and whose texts or numbers decide what it makes of them.
_READ = frozenset({
    "solution", "tools", "chat_template_kwargs", "video", "videos", "image", "images", "image_path", "candidates",
    "shares", "margin", "confidence", "category", "unit", "chosen", "rejected", "cot", "system", "system_prompt",
    *SOUND_COLUMNS,
})  # fmt: skip
_ENDS = 5  # letters of the longest ending of a sound's file
_LARGE = 1 << 1000  # whole numbers beyond it may be too large for a float

Form = tuple[tuple[str, ...], tuple[type, ...]]


class Flat:
    """The forms of plain records that the long way gives back as they are."""

    def __init__(self) -> None:
        self._same: set[Form] = set()

    def is_same(self, record: Mapping[str, Any]) -> bool:
        """Whether the long way would give back this record as it is, and refuse nothing."""
        values = record.values()
        return (tuple(record), tuple(map(type, values))) in self._same and all(map(_is_said_plainly, record, values))

    def note(self, record: Mapping[str, Any], made: Mapping[str, Any]) -> None:
        """The long way has made this of a record."""
        kinds = tuple(map(type, record.values()))
        if _KINDS.issuperset(kinds) and _READ.isdisjoint(record) and list(made.items()) == list(record.items()):
            self._same.add((tuple(record), kinds))


def _is_said_plainly(column: str, value: Any) -> bool:
    """Whether a value has nothing in it that the long way looks for."""
    kind = type(value)
    if kind is str:
        if not value.isascii() and _has_half(value):
            return False
        if column == "prompt" and (not value.strip() or IMAGE in value):
            return False
        if column in MESSAGES:
            return not value.lstrip().startswith("[")
        if column == "id":
            return bool(value)
        return column in SAID or not named_like_a_sound(value[-_ENDS:])
    if kind is float:
        return math.isfinite(value)
    return kind is not int or -_LARGE < value < _LARGE


def _has_half(text: str) -> bool:
    """Whether half of a character stands in it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
