"""Words for error messages: what a name that is not known may have meant, and values cut short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Longer names are compared by their beginning: difflib is slow, and nobody reads more.
LONGEST = 80


def near(word: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """What `word` may have meant; or `otherwise`, by default everything that is known, in order of the alphabet."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word[:LONGEST], names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    if otherwise is not None:
        return otherwise
    return f"known: {', '.join(names)}" if names else "there are none"


def short(value: object) -> str:
    """repr of a value that is quoted in a message, at most LONGEST characters; never raises."""
    try:
        text = repr(value[:LONGEST] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list inside itself
        return f"{type(value).__name__} too large to show"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
