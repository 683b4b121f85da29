"""Candidates in words and pictures, and verdicts out of words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.rewarding.verdicts import read_verdict
from mmrl.thoughts import outside
from mmrl.types import Candidate, Pair

_FORMS = {
    "sentence": re.compile(
        r"\b(?:answer|response|image|candidate|option)\s*#?\s*(\d+)\s+is\s+(?:the\s+)?(?:better|best)\b", re.IGNORECASE
    ),
    "letter": re.compile(r"\[\[([A-Z])\]\]"),
}
FORMS = ("answer", *_FORMS)


def words_of(candidate: Candidate) -> str:
    """A candidate's own words; of messages, those of all of them, a line each."""
    if isinstance(candidate.answer, str):
        return candidate.answer
    said = [m.get("content", "") if isinstance(m, Mapping) else m for m in candidate.answer]
    return "\n".join(_text(content) for content in said)


def pictures_of(pair: Pair) -> list[Any]:
    """References to all its pictures: the question's, then those of each candidate in turn."""
    own = pair.prompt.record.get("images") or ()
    return [*own, *(ref for candidate in pair.candidates for ref in candidate.images)]


def verdict_in(text: str, count: int, form: str = "answer") -> int | str:
    """The place, from 0, that a judge of `count` candidates names, or why there is none.

    form: "answer", the only <answer>, as in training (mmrl.rewarding.verdicts); "sentence", "Answer 1 is better"
    (VL-RewardBench), also inside of an <answer> (UnifiedReward-Think); "letter", [[A]] (RewardBench). Thoughts are left
    out. Nothing is guessed: verdicts that are absent, out of range or of two minds are none. (Released code takes the
    last digit anywhere, or else the second candidate, which pays half of all failures.)
    """
    if form == "answer":
        return read_verdict(text, count)
    said = "\n".join(outside(text))
    places = {ord(name) - ord("A") if name.isalpha() else int(name[:9]) - 1 for name in _FORMS[form].findall(said)}
    if not places:
        return f"no verdict of the form {form!r}" if said.strip() else "no verdict: nothing is said outside of thoughts"
    if len(places) > 1:
        return "verdicts of two minds"
    place = places.pop()
    return place if 0 <= place < count else f"verdict {place + 1} of {count} candidates"


def _text(content: Any) -> str:
    """The words of a message's content: a text, or a list of parts."""
    if isinstance(content, str):
        return content
    parts: Sequence[Any] = content if isinstance(content, Sequence) else ()
    return "".join(p if isinstance(p, str) else str(p.get("text") or "") for p in parts if isinstance(p, str | Mapping))
