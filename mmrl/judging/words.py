"""Candidates in words and pictures, and verdicts out of words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.thoughts import outside
from mmrl.types import Candidate, Pair

_FORMS = {
    "answer": re.compile(r"<answer>(.*?)</answer>", re.DOTALL),
    "sentence": re.compile(
        r"\b(?:answer|response|image|candidate|option)\s*#?\s*(\d+)\s+is\s+(?:the\s+)?(?:better|best)\b", re.IGNORECASE
    ),
    "letter": re.compile(r"\[\[([A-Z])\]\]"),
}
FORMS = tuple(_FORMS)


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


def read_verdict(text: str, count: int, form: str = "answer") -> int | str:
    """The place, from 0, that a judge of `count` candidates names, or why there is none.

    form: "answer", one whole <answer> with one number in it, R1-Reward's "1" and UnifiedReward-Think's "Image 1 is
    better" alike; "sentence", "Answer 1 is better" (VL-RewardBench); "letter", [[A]] (RewardBench). Thoughts are left
    out. Nothing is guessed: verdicts that are absent, out of range or of two minds are none. (Released code takes the
    last digit anywhere, or else the second candidate, which pays half of all failures.)
    """
    said = "".join(outside(text))
    if not said.strip():
        return "nothing is said outside of thoughts"
    found = _FORMS[form].findall(said)
    if not found:
        return f"no verdict of the form {form!r}"
    if form == "letter":
        places = {ord(letter) - ord("A") for letter in found}
    else:
        numbers = [re.findall(r"\d+", piece) for piece in found]
        if not all(numbers):
            return f"a verdict without a number: {found[-1].strip()!r:.60}"
        places = {int(digits[:9]) - 1 for piece in numbers for digits in piece}
    if len(places) > 1:
        return f"verdicts of two minds: {', '.join(str(p + 1) for p in sorted(places))}"
    place = places.pop()
    return place if 0 <= place < count else f"the verdict {place + 1} is of none of {count} candidates"


def _text(content: Any) -> str:
    """The words of a message's content: a text, or a list of parts."""
    if isinstance(content, str):
        return content
    parts: Sequence[Any] = content if isinstance(content, Sequence) else ()
    return "".join(p if isinstance(p, str) else str(p.get("text") or "") for p in parts if isinstance(p, str | Mapping))
