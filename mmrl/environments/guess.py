"""Feedback of a number guessing game: higher, lower, found."""

from __future__ import annotations

from mmrl.environments.base import Episode
from mmrl.environments.parsing import whole_number

UNREADABLE = "Say one whole number."


def hint(episode: Episode) -> str | None:
    """Whether the record's `secret` is higher or lower than the policy's number; None once it is found.

    A turn counts as a guess if it, or its last <answer>, holds one whole number and no more: a list of all of them is
    no guess. info: `found` 0 or 1, `guesses` that were read, `unreadable` turns.
    Raises ValueError for a record without a whole `secret`.
    """
    secret, info = episode.prompt.record.get("secret"), episode.info
    if type(secret) is not int:
        raise ValueError(f"prompt {episode.prompt.id!r} needs `secret`, a whole number")
    guess = whole_number(episode.said[-1])
    info["found"] = int(guess == secret)
    info["guesses"] = info.get("guesses", 0) + (guess is not None)
    info["unreadable"] = info.get("unreadable", 0) + (guess is None)
    if guess is None:
        return UNREADABLE
    if guess == secret:
        return None
    return "Higher." if secret > guess else "Lower."
