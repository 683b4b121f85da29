"""The messages that a record opens with: its own or its text, with a mark for each of its pictures and sounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.media import AUDIO, IMAGE, SOUND_PARTS, own_sounds
from mmrl.types import Prompt

_PICTURE_TYPES = ("image", "image_url")


def opening(prompt: Prompt, pictures: int, system: str | None = None) -> list[dict[str, str]]:
    """[{role, content}] of a prompt whose record has `pictures` pictures, each with its IMAGE mark, and sounds, each
    with its AUDIO mark.

    The record's `messages` (content a text, or a list of {"type": "text" | "image" | "audio" ...}) without answers at
    its end, or else the prompt's text as one user message. Where nothing marks the pictures they come first, and so do
    sounds, behind them. system: a text for the system message, behind the record's own.

    Raises ValueError, naming the record, for messages of another form and where marks and media differ in number.
    """
    messages = messages_of(prompt)
    if sounds := len(own_sounds(prompt.record)):
        _mark(prompt, messages, AUDIO, sounds, "sounds")
    _mark(prompt, messages, IMAGE, pictures, "pictures")
    return with_system(messages, system)


def _mark(prompt: Prompt, messages: list[dict[str, str]], mark: str, count: int, named: str) -> None:
    """Put marks before what the user says first, where there are none."""
    marks = sum(message["content"].count(mark) for message in messages)
    if count and not marks:
        first = next((m for m in messages if m["role"] == "user"), messages[0])
        first["content"] = mark * count + first["content"]
    elif marks != count:
        raise ValueError(f"prompt {prompt.id!r} has {marks} {mark} marks and {count} {named}; they must agree")


def with_system(messages: list[dict[str, str]], system: str | None) -> list[dict[str, str]]:
    """The messages with `system` in the first one, behind what is said there already."""
    if not system:
        return messages
    if messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{system}"}, *messages[1:]]
    return [{"role": "system", "content": system}, *messages]


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """What a prompt says: the record's `messages` with texts as content, or its text. Raises ValueError."""
    given = prompt.record.get("messages")
    if given is None:
        return [{"role": "user", "content": prompt.text}]
    try:
        read = read_messages(given, bool(prompt.record.get("continue_final_message")))
    except ValueError as error:
        raise ValueError(f"prompt {prompt.id!r}: {error}") from None
    contents = [message["content"] for message in given if isinstance(message["content"], list | tuple)]
    if any(_is_sound(part) for content in contents for part in content) and not own_sounds(prompt.record):
        raise ValueError(f"prompt {prompt.id!r}: a part of its messages is a sound, and it has no `sounds`")
    return read


def question_of(prompt: Prompt) -> str:
    """What is asked, without marks of media: the column `question`, or what the user said last."""
    asked = prompt.record.get("question")
    if not isinstance(asked, str):
        asked = next((m["content"] for m in reversed(messages_of(prompt)) if m["role"] == "user"), prompt.text)
    return asked.replace(IMAGE, "").replace(AUDIO, "").strip()


def read_messages(messages: Any, begun: bool) -> list[dict[str, str]]:
    """[{role, content}] with texts as content, without answers at the end. begun: the last message is the policy's own
    beginning, and stays. Raises ValueError for what is no such list."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ValueError("`messages` must be a list of {role, content}")
    read = []
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError("`messages` must be a list of {role, content}")
        read.append({**message, "content": _text(message.get("content"))})
    while read and read[-1]["role"] == "assistant" and not begun:
        read.pop()
    if not read:
        raise ValueError("`messages` asks nothing")
    return read


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError(f"a message's content is {type(content).__name__}; expected a text or a list of parts")
    return "".join(map(_part, content))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if _is_of(part, _PICTURE_TYPES):
        return IMAGE
    if _is_sound(part):
        return AUDIO
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    raise ValueError(f"a part of a message is neither text nor picture nor sound: {str(part)[:60]}")


def _is_sound(part: Any) -> bool:
    return _is_of(part, SOUND_PARTS)


def _is_of(part: Any, types: Sequence[str]) -> bool:
    """Whether a part of a message is of one of these types, or has one as a key where it has no type."""
    if not isinstance(part, Mapping):
        return False
    kind = part.get("type")
    return kind in types if kind is not None else any(name in part for name in types)
