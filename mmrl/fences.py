"""Fenced blocks of an answer: what stands between lines of ```."""

from __future__ import annotations

import re
from collections.abc import Collection

# Only a line of its own opens or closes one, so that ``` in a program's texts does not; lines may end as in Windows.
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t\r]*$|\Z)", re.DOTALL | re.MULTILINE)


def blocks(text: str, languages: Collection[str]) -> list[tuple[int, int]]:
    """Where the insides of the blocks of these languages are, in order; the last may lack its end.

    languages: names in small letters as they stand behind the opening ```; "" is a block without one.
    """
    return [match.span(2) for match in _FENCE.finditer(text) if match[1].lower() in languages]
