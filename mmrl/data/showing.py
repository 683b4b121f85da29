"""How candidates are shown to a model that scores them one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.media import IMAGE
from mmrl.types import Candidate, Prompt

SHOW = "{prompt}\n{candidate}"
_PLACES = re.compile(r"(\{prompt\}|\{candidate\})")
# Columns that say what of candidates is preferred, or what asks for another way to be shown: none is read in a row.
_LEFT = (
    "answer", "candidates", "chosen", "completion", "confidence", "environment", "margin", "rejected", "shares",
    "steps", "values",
)  # fmt: skip


def candidate_row(prompt: Prompt, candidate: Candidate, show: str = SHOW) -> tuple[Prompt, Any]:
    """(prompt, answer) of what a scalar model reads of a candidate, for `Adapter.given`.

    A candidate that is a text, or messages, is the answer to its prompt; of messages the last is scored, whatever they
    say of being learned. One with pictures is shown behind the words:
    they take the place of `{candidate}` in `show`, with its text where it has one, the last user's words that of
    `{prompt}`, and the answer is empty, so that the score is that of the turn's end.
    Raises ValueError for messages with pictures.
    """
    record = {key: value for key, value in prompt.record.items() if key not in _LEFT}
    if not candidate.images:
        return Prompt(prompt.id, prompt.text, record, prompt.root), _whole(candidate.answer)
    if not isinstance(candidate.answer, str):
        raise ValueError(f"prompt {prompt.id!r}: a candidate with pictures is messages; give its words as one text")
    pictures = list(record.get("images") or ())
    messages = _marked(record.get("messages") or [{"role": "user", "content": prompt.text}], len(pictures))
    last = max((n for n, m in enumerate(messages) if m["role"] == "user"), default=len(messages) - 1)
    text = candidate.answer
    parts: dict[str, str] = {
        "{prompt}": str(messages[last]["content"]),
        "{candidate}": text if IMAGE in text else IMAGE * len(candidate.images) + text,
    }
    if pictures and show.index("{candidate}") < show.index("{prompt}"):
        raise ValueError(f"prompt {prompt.id!r} has pictures of its own: `show` needs {{prompt}} before {{candidate}}")
    messages[last]["content"] = "".join(parts.get(str(piece), str(piece)) for piece in _PLACES.split(show))
    made = {**record, "messages": messages, "images": [*pictures, *candidate.images]}
    return Prompt(prompt.id, messages[last]["content"], made, prompt.root), ""


def _whole(answer: Any) -> Any:
    """An answer whose messages all count."""
    if not isinstance(answer, list | tuple):
        return answer
    return [{k: v for k, v in one.items() if k != "loss"} if isinstance(one, Mapping) else one for one in answer]


def _marked(messages: Any, pictures: int) -> list[dict[str, Any]]:
    """A copy of the messages, in which the first user's words begin with the marks of pictures that nothing marks."""
    told: list[dict[str, Any]] = [dict(message) for message in messages if isinstance(message, Mapping)]
    if pictures and not any(IMAGE in message["content"] for message in told):
        first = next((message for message in told if message["role"] == "user"), told[0])
        first["content"] = IMAGE * pictures + first["content"]
    return told
