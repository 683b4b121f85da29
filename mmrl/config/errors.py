"""What a configuration that cannot be run raises, and the words for a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says which key and what to write instead."""


def near(word: str, known: Iterable[str]) -> str:
    """Words for an error message: what `word` may have meant, or all that is known, in order of the alphabet."""
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
