"""What of a reply is the answer: the words outside of thoughts, inside an answer's tag where there is one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmrl.bench.listening.ways import LETTERS
from mmrl.thoughts import without_thoughts

_TAG = re.compile(r"<(answer|response)>((?:(?!<\1>).)*?)</\1>", re.IGNORECASE | re.DOTALL)
_LETTER = re.compile(r"[\s(\[*]*([A-Z])[\s)\].:*]*", re.IGNORECASE)
_BEFORE = re.compile(r"\s*[(\[]?([A-Z])[)\].:]+\s+(.+)", re.DOTALL)


def answer_in(reply: str, options: Sequence[str], letters: bool) -> str:
    """The answer that the published rule looks at.

    letters: options were shown behind letters. A letter alone then stands for its option, and one before a text goes.
    """
    tagged = _TAG.findall(reply)
    said = (tagged[-1][1] if tagged else without_thoughts(reply)).strip()
    if not letters:
        return said
    known = LETTERS[: len(options)]
    alone = _LETTER.fullmatch(said)
    if alone and alone[1].upper() in known:
        return options[known.index(alone[1].upper())]
    before = _BEFORE.fullmatch(said)
    return before[2].strip() if before and before[1] in known else said
