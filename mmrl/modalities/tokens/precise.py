"""Which tokens of an answer have to be exact: characters that a function finds, as the tokens that were sampled.

A number is several tokens in most vocabularies, and a token may hold more than a number; nothing is encoded again, so
that a token counts where a character of its own text does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from mmrl.environments.find import find
from mmrl.near import short

Span = tuple[int, int]
Find = Callable[[str], Sequence[Span]]

DIGITS = "digits"
FINDERS = {DIGITS: "mmrl.modalities.tokens.precise:digits"}
_CUT = "\ufffd"  # what decoders write for a part of a character
_WINDOW = 8  # tokens before one that its text can depend on


def finder(name: str) -> Find:
    """The function (text) -> (start, end) of what has to be exact: one of FINDERS, or `path/file.py:function`.

    Raises ValueError without one.
    """
    return find(name, FINDERS, "precise")


def digits(text: str) -> list[Span]:
    """Runs of digits."""
    return [match.span() for match in re.finditer(r"\d+", text)]


def classes(text: str, words: Sequence[str], found: Find) -> list[int]:
    """1 for each word with a character in one of the spans that `found` gives of the text, otherwise 0.

    words: what each token adds to the text, in order. Raises ValueError for spans that are none of the text.
    """
    inside = bytearray(len(text))
    for span in found(text):
        start, end = _checked(span, len(text))
        inside[start:end] = b"\1" * (end - start)
    ends = accumulate(map(len, words), initial=0)
    return [int(1 in inside[start:end]) for start, end in pairwise(ends)]


def grown(ids: Sequence[int], text_of: Callable[[Sequence[int]], str]) -> list[str]:
    """What each id adds to the text of those before it; a character of several ids is the last one's.

    For tokenizers that write a token otherwise alone than behind others.
    """
    words = []
    for place in range(len(ids)):
        start = max(0, place - _WINDOW)
        before, after = text_of(ids[start:place]), text_of(ids[start : place + 1])
        words.append("" if after.endswith(_CUT) else after[len(before.rstrip(_CUT)) :])
    return words


def _checked(span: object, length: int) -> Span:
    match span:
        case (int(start), int(end)) if 0 <= start <= end <= length:
            return start, end
    raise ValueError(f"precise: {short(span)} is no (start, end) in a text of {length} characters")
