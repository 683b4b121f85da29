"""R1-Reward's training data: the whole judge's prompt as a chat in a text, and which of two responses is better.

The prompt that R1-Reward wrote is taken apart again, so that the responses can be shown in any order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mmrl.data.messages import are_messages, conversation, messages_in

_PARTS = ("question", "response 1", "response 2")
# `###### [Question]:`; what follows on the line belongs to the part. The answers may have headings of their own, which
# have no brackets. The instructions behind the responses have a heading in bold.
_HEADING = re.compile(r"^[ \t]*#{2,}[ \t]*\[(question|response 1|response 2)\][ \t]*:?", re.IGNORECASE | re.MULTILINE)
_BEHIND = re.compile(r"^[ \t]*#{2,}[ \t]*\*{0,2}[ \t]*output format", re.IGNORECASE | re.MULTILINE)
_PICTURES_AROUND = re.compile(r"\A(?:\s*<image>)+\s*|(?:\s*<image>)+\s*\Z")
_VERDICT = re.compile(r"\s*<answer>\s*([12])\s*</answer>\s*")


def r1_reward(record: Mapping[str, Any]) -> dict[str, Any]:
    """`message`, a text of JSON of one user's turn, with pictures; `answer`, ["<answer>1</answer>"] or 2.

    `answer` is taken out of the record: it counts the responses as the message shows them. Raises ValueError that says
    what is wrong with the JSON, the turn, the headings or the label.
    """
    shares = _shares(record.get("answer"))
    text, pictures = _turn(record.get("message"))
    question, *responses = _parts(text)
    made = {"prompt": question, "candidates": responses, "shares": shares, "answer": None}
    return {**made, **({"images": pictures} if pictures else {})}


def _shares(answer: Any) -> list[float]:
    if answer is None:
        raise ValueError("has no label: `answer` says which response is better")
    told = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    found = _VERDICT.fullmatch(told) if isinstance(told, str) else None
    if found is None:
        raise ValueError(f"`answer` is {answer!r:.60}, expected ['<answer>1</answer>'] or ['<answer>2</answer>']")
    return [1.0, 0.0] if found[1] == "1" else [0.0, 1.0]


def _turn(message: Any) -> tuple[str, list[Any]]:
    """(text, pictures) of the one turn of a user that a text of JSON holds."""
    chat = messages_in(message) if isinstance(message, str) else message
    if chat is None and isinstance(message, str):
        try:
            json.loads(message)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`message` is a text that is no JSON: {error!s:.80}") from None
    if not are_messages(chat) or [one["role"] for one in chat] != ["user"]:
        raise ValueError("`message` must be a chat of one message of role user, as a text of JSON")
    turn = conversation(chat, {})
    # A picture stands before or behind the whole prompt of the judge, where nothing of what is compared is.
    return _PICTURES_AROUND.sub("", turn["messages"][0]["content"]), turn.get("images", [])


def _parts(text: str) -> list[str]:
    """[question, response 1, response 2] of the judge's prompt."""
    found = list(_HEADING.finditer(text))
    names = [heading[1].lower() for heading in found]
    for name in _PARTS:
        if names.count(name) != 1:
            often = "no heading" if name not in names else f"{names.count(name)} headings"
            raise ValueError(f"the text of `message` has {often} [{name.capitalize()}] after hashes, expected one")
    if tuple(names) != _PARTS:
        raise ValueError(f"the headings in `message` come as {', '.join(names)}; expected {', '.join(_PARTS)}")
    behind = [end.start() for end in _BEHIND.finditer(text, found[-1].end())]
    ends = [found[1].start(), found[2].start(), behind[-1] if behind else len(text)]
    parts = [text[heading.end() : end].strip() for heading, end in zip(found, ends)]
    for name, part in zip(_PARTS, parts):
        if not part:
            raise ValueError(f"the part [{name.capitalize()}] of `message` is empty")
    return parts
