"""The tags of a structured answer: which sections, in which tag, and where the answer stands. Written once for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Audio-Reasoner's, which brought in the four sections. SARI has the same four, and its paper does not tell its tags.
SECTIONS = ("PLANNING", "CAPTION", "REASONING", "SUMMARY")
INSIDE = "THINK"
ANSWER = "RESPONSE"


def checked_names(sections: Sequence[str], inside: str | None, answer: str) -> list[str]:
    """All names, the outer one last. Raises ValueError unless they are different names of one word each."""
    names = [*sections, answer, *([] if inside is None else [inside])]
    if not sections or len(set(names)) < len(names) or any(not name or set(name) & set("<>/ \t\n") for name in names):
        raise ValueError(f"the tags {names} must be one or more sections and an answer, different names of one word")
    return names


def wrapped(name: str, text: Any) -> str:
    return f"<{name}>{str(text).strip()}</{name}>"


def chained(thought: str, answer: Any, inside: str | None = INSIDE, name: str = ANSWER) -> str:
    """A thought as it is, in its tag where there is one, and the answer in its own behind it."""
    return f"{thought if inside is None else f'<{inside}>{thought}</{inside}>'}\n{wrapped(name, answer)}"


def structured(
    parts: Mapping[str, Any],
    answer: Any,
    sections: Sequence[str] = SECTIONS,
    inside: str | None = INSIDE,
    name: str = ANSWER,
) -> str:
    """The whole text of a structured answer, as the reward `tags.structured` with these names wants it.

    parts: what each section says, by its name.
    """
    lines = "\n".join(wrapped(section, parts[section]) for section in sections)
    return chained(lines if inside is None else f"\n{lines}\n", answer, inside, name)
