"""What a chat template takes: its arguments, and what to do where it refuses messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

# Arguments of `apply_chat_template` that are not the template's.
RESERVED = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
        "messages", "padding", "processor_kwargs", "return_assistant_tokens_mask", "return_dict", "return_tensors",
        "tokenize", "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip


def unknown_argument(arguments: Any, template: str | Mapping[str, str]) -> str | None:
    """Why a template cannot be given these arguments, in words that follow their name, or None."""
    if not isinstance(arguments, Mapping):
        return f"is {type(arguments).__name__}, expected an object of the chat template's arguments"
    for name in arguments:
        if name in RESERVED:
            return f"has {name!r:.60}, which is no argument of chat templates but of their reader; leave it out"
        if not names(str(name), template):
            return f"has {name!r:.60}, which this chat template does not read; leave it out"
    return None


def names(variable: str, template: str | Mapping[str, str]) -> bool:
    """Whether a template (one, or several by name) reads a variable of this name."""
    text = template if isinstance(template, str) else "\n".join(template.values())
    return bool(re.search(rf"\b{re.escape(variable)}\b", text))


def advice(messages: Sequence[Mapping[str, Any]], takes: Callable[[Sequence[Mapping[str, Any]]], bool]) -> str:
    """What to do about messages that a template refuses. takes: whether it takes others."""
    roles = [message["role"] for message in messages]
    if "system" in roles and takes([m for m in messages if m["role"] != "system"]):
        return "it has no place for role system here: put that text into the first message of the user"
    rest = [role for role in roles if role != "system"]
    twice = next((a for a, b in pairwise(rest) if a == b), None)
    if twice:
        return f"user and assistant must take turns, and two messages of role {twice} follow one another: join them"
    if rest and rest[0] != "user":
        return "the first message must be the user's"
    for role in dict.fromkeys(rest):
        told = [{"role": one, "content": "0"} for one in ("user", "assistant", role)]
        if role not in ("user", "assistant") and not takes(told):
            return f"it knows no role {role!r:.40}"
    return "change the messages, or leave such records out (data.where)"
