"""What of a text is a thought, by the marks of all families: <think>, [THINK], channels."""

from __future__ import annotations

import re

_THOUGHTS = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad", "analysis")
_NAMES = rf"(?:seed:)?(?:{'|'.join(_THOUGHTS)})"
_THOUGHT = re.compile(
    rf"(?P<open><{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis<\|message\|>"
    r"|<\|START_THINKING\|>|<\|channel>thought\b)"
    rf"|</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>"
    r"|<\|END_THINKING\|>|<channel\|>",
    re.IGNORECASE,
)
_ENDS: tuple[str, ...] = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "</s>",
    "<eos>",
)
_ENDS += ("<end_of_turn>", "<turn|>", "<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>")


def is_thought(name: str) -> bool:
    """Whether the tag of this name holds thoughts."""
    return name.lower() in _THOUGHTS


def without_thoughts(text: str) -> str:
    """The last words that are no thought (<think>...</think> and its kin), "" without any.

    The template may have opened a thought: what stands before an end without a beginning is one. So is what follows a
    beginning without an end.
    """
    start, end = said_at(text)
    return text[start:end]


def said_at(text: str) -> tuple[int, int]:
    """Where `without_thoughts` stands in the text; at its end without any."""
    said = _outside(text)
    nothing = said[-1] if said else (len(text), len(text))
    return next((place for place in reversed(said) if any(c.isalnum() for c in text[slice(*place)])), nothing)


def behind_thoughts(text: str) -> str:
    """What stands behind the last thought, "" where that has no end."""
    last = next(reversed(list(_THOUGHT.finditer(text))), None)
    return text if last is None else "" if last["open"] else text[last.end() :]


def outside(text: str) -> list[str]:
    """The pieces of the text that are no thoughts, in order."""
    return [text[start:end] for start, end in _outside(text)]


def _outside(text: str) -> list[tuple[int, int]]:
    text = text.rstrip()
    while text.endswith(_ENDS):
        text = text[: text.rindex("<")].rstrip()
    said: list[tuple[int, int]] = []
    start, inside = 0, False
    for tag in _THOUGHT.finditer(text):
        if tag["open"]:
            if not inside:
                said.append((start, tag.start()))
            inside = True
        else:
            if not inside:
                said.clear()
            inside, start = False, tag.end()
    return said if inside else [*said, (start, len(text))]
