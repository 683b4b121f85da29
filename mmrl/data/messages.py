"""Messages of a conversation: their parts as texts, what was asked, what answers it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

from mmrl.media import AUDIO, IMAGE, SOUND_COLUMNS, SOUND_PARTS

_PICTURES = ("image", "image_url")  # types of a message's parts, and their keys
_PLACES = ("url", "path", "base64")  # transformers' keys of what a part with a type shows
# Columns that may be messages, or a text of JSON that is them.
MESSAGES = ("prompt", "messages", "conversations", "context_messages", "completion", "chosen", "rejected")
# Says of a message of role assistant whether it is learned: ms-swift's name, and OpenAI's.
_LEARNED = ("loss", "weight")


def are_messages(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether it is a list of {"role", "content"}; a message that calls tools may have no content."""
    return isinstance(value, list) and all(
        isinstance(m, Mapping) and "role" in m and ("content" in m or m.get("tool_calls")) for m in value
    )


def messages_in(text: Any) -> list[Any] | None:
    """The list of messages that a text of JSON is; None for anything else."""
    if not isinstance(text, str) or not text.lstrip().startswith("[") or not text.rstrip().endswith("]"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    told = isinstance(value, list) and all(
        isinstance(m, dict) and ({"role"} <= set(m) or {"from", "value"} <= set(m)) for m in value
    )
    return value if told and value else None


def last_user_text(messages: Sequence[Any]) -> str:
    """The text of the last message of role `user`, its text parts joined by newlines.

    Raises ValueError for what is no list of {"role", "content"}, and where no user says anything.
    """
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"message {number} of `prompt` needs `role` and `content`")
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
            text = "\n".join(text for text in texts if isinstance(text, str))
            if text.strip():
                return text
            break
    raise ValueError("`prompt` has no text in a last message of role `user`")


def conversation(
    messages: Sequence[Any], record: Mapping[str, Any], every_turn: bool = False, begun: bool = False
) -> dict[str, Any]:
    """{"messages"} up to the last question, {"completion"} from what answers it, {"images"} and {"sounds"}
    that stand in the parts.

    every_turn: of a conversation that ends with an answer, all from the first answer on is the completion. begun: the
    last message is the beginning of the answer, and stays in the messages.
    """
    if not are_messages(messages):
        return {"messages": messages}
    pictures = [picture for message in messages for picture in _held(message.get("content"), _PICTURES)]
    texts = texts_of(messages)
    made: dict[str, Any] = {}
    answered = any(record.get(key) is not None for key in ("completion", "chosen"))
    if begun:
        if texts[-1]["role"] != "assistant" or len(texts) == 1:
            raise ValueError(
                "`continue_final_message` needs a last message of role assistant, and a question before it"
            )
        made["messages"] = texts
    else:
        last = max((n for n, m in enumerate(texts) if m["role"] != "assistant"), default=len(texts) - 1)
        first = next((n for n, m in enumerate(texts) if n and m["role"] == "assistant"), len(texts))
        cut = first if every_turn and not answered and last + 1 < len(texts) else last + 1
        made["messages"] = texts[:cut]
        if texts[cut:] and not answered:
            made["completion"] = texts[cut:]
    beside = record.get("images") or record.get("image")
    if pictures and beside and beside not in (pictures, *(pictures if len(pictures) == 1 else ())):
        raise ValueError("pictures stand in the messages and in `images` or `image`, and are not the same")
    if pictures and not beside:
        made["images"] = pictures
    sounds = [sound for message in messages for sound in _held(message.get("content"), SOUND_PARTS)]
    beside = any(_given(record.get(column)) for column in SOUND_COLUMNS)
    if sounds and beside:
        raise ValueError("sounds stand in the messages and in a column of their own; leave one of both out")
    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    if not sounds and not beside and any(is_sound(part) for content in contents for part in content):
        raise ValueError("a part of the messages is a sound, and there is none, neither in it nor in `sounds`")
    return made | ({"sounds": sounds} if sounds else {})


def texts_of(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with texts as content, and without keys that hold null, as tables write them.

    Raises ValueError for a message without a text in `role` or in `content`.
    """
    texts = []
    for number, message in enumerate(messages):
        told = {key: _dense(value) for key, value in message.items() if value is not None and key not in _LEARNED}
        told["content"] = _joined(told.get("content", "" if "tool_calls" in told else None))
        if not isinstance(told.get("role"), str) or not isinstance(told["content"], str):
            raise ValueError(f"message {number} of `prompt` has no text in `role` or in `content`")
        if told["role"] == "assistant" and not all(message[k] for k in _LEARNED if message.get(k) is not None):
            told["loss"] = False
        texts.append(told)
    return texts


def with_prompt_inside(chosen: Any, rejected: Any, prompt: Any) -> dict[str, Any]:
    """{"messages", "chosen", "rejected"} of two whole conversations: what they share is what was asked; {} for others.

    Raises ValueError where they share no question, and where `prompt` is a text that says something else.
    """
    both = [value for value in (chosen, rejected) if isinstance(value, list) and value and are_messages(value)]
    if len(both) < 2 or all(value[0]["role"] == "assistant" for value in both):
        return {}
    first, second = (texts_of(value) for value in both)
    shared = next((n for n, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
    while shared and first[shared - 1]["role"] == "assistant":  # one answer begins as the other, and goes on
        shared -= 1
    asked = first[:shared]
    if not asked or not first[shared:] or not second[shared:]:
        raise ValueError("`chosen` and `rejected` are conversations that do not begin with the same question")
    if isinstance(prompt, str) and prompt.strip() and last_user_text(asked).strip() != prompt.strip():
        raise ValueError("`prompt` is not what the conversations in `chosen` and `rejected` ask")
    return {"messages": asked, "chosen": first[shared:], "rejected": second[shared:]}


def with_system(messages: Sequence[Any], text: str, column: str) -> list[Any]:
    """The messages behind one of role `system` with this text.

    Raises ValueError where they begin with one that says something else; column: where the text stands.
    """
    first = messages[0] if messages and isinstance(messages[0], Mapping) else {}
    if first.get("role") != "system":
        return [{"role": "system", "content": text}, *messages]
    if first.get("content") != text:
        raise ValueError(f"`{column}` and the first message, of role system, say different things")
    return list(messages)


def one_answer(value: Any, key: str) -> Any:
    """The text of an answer that is given as one message, its messages where there are more; others as they are.

    Raises ValueError for messages that are no answer: they begin and end with the assistant's, which take turns with
    others.
    """
    if not isinstance(value, list) or not value or not are_messages(value):
        return value
    told = texts_of(value)
    roles = [message["role"] for message in told]
    if roles[0] != "assistant" or roles[-1] != "assistant":
        raise ValueError(f"`{key}` has messages of {', '.join(roles)[:80]}; an answer begins and ends with assistant")
    if any(a == b == "assistant" for a, b in pairwise(roles)):
        raise ValueError(f"`{key}` has two messages of role assistant one behind the other; join them")
    if not any(message.get("loss", True) for message in told):
        raise ValueError(f"`{key}` has no message that is learned: `loss` or `weight` of all is 0")
    return told[0]["content"] if len(told) == 1 and set(told[0]) == {"role", "content"} else told


def _dense(value: Any) -> Any:
    """A value without keys that hold null, at any depth: a table's columns give each call the arguments of all."""
    if isinstance(value, Mapping):
        return {key: _dense(inner) for key, inner in value.items() if inner is not None}
    return [_dense(inner) for inner in value] if isinstance(value, list) else value


def _joined(content: Any) -> Any:
    """A message's parts as one text, `<image>` for each picture, `<audio>` for each sound; anything else as it is."""
    if not isinstance(content, list):
        return content
    return "".join(map(_words, content))


def _words(part: Any) -> str:
    if is_part(part, _PICTURES):
        return IMAGE
    if is_sound(part):
        return AUDIO
    text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str):
        raise ValueError(f"a part of a message is neither text nor picture nor sound: {str(part)[:60]}")
    return text


def is_sound(part: Any) -> bool:
    """Whether a part of a message is a sound."""
    return is_part(part, SOUND_PARTS)


def is_part(part: Any, kinds: Sequence[str]) -> bool:
    """Whether a part of a message is of one of these types, or has a key of one where it has no type."""
    if not isinstance(part, Mapping):
        return False
    kind = part.get("type")
    return kind in kinds if kind is not None else any(part.get(key) is not None for key in kinds)


def _held(content: Any, kinds: Sequence[str]) -> Iterable[Any]:
    """What stands in the parts themselves: {"type": "image", "image": ...}, or "url", "path", "base64"."""
    for part in content if isinstance(content, list) else ():
        if is_part(part, kinds):
            found = next((part[key] for key in (*kinds, *_PLACES) if part.get(key) is not None), None)
            if found is not None and found is part.get("base64"):
                found = {"data": found}
            if isinstance(found, Mapping) and "url" in found:
                found = found["url"]
            if found is not None:
                yield _unpacked(found)


def _unpacked(medium: Any) -> Any:
    """What a message's part shows; {"data": base64}, as OpenAI has it of sounds, as bytes."""
    if not isinstance(medium, Mapping) or not isinstance(medium.get("data"), str):
        return medium
    try:
        return {"bytes": base64.b64decode(medium["data"], validate=True), "path": None}
    except ValueError as error:
        raise ValueError(f"a picture or sound of a message is no base64: {error}") from None


def marks_as(record: Mapping[str, Any], other: str, mark: str) -> dict[str, Any]:
    """{"prompt", "messages", "completion", "chosen", "rejected"} as far as a record has them, with `mark` for each
    `other` in what a policy is asked (see marks_in)."""

    def told(key: str, value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(other, mark) if key == "prompt" else value
        if not are_messages(value):
            return value
        asked = [message["role"] != "assistant" or key == "messages" for message in value]
        return [
            {**m, "content": m["content"].replace(other, mark)} if of and isinstance(m.get("content"), str) else m
            for m, of in zip(value, asked)
        ]

    keys = ("prompt", "messages", "completion", "chosen", "rejected")
    return {key: told(key, record[key]) for key in keys if key in record}


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, str | list | tuple) and not value)


def marks_in(record: Mapping[str, Any], mark: str) -> int:
    """How often the mark of a medium stands in what a policy is asked."""
    messages = record.get("messages")
    texts = [message["content"] for message in messages] if are_messages(messages) else [record.get("prompt")]
    # A conversation to learn goes on behind the prompt; both answers of a preference see the same pictures.
    behind = next(
        (a for key in ("completion", "chosen") if isinstance(a := record.get(key), list) and are_messages(a)), []
    )
    texts += [message.get("content") for message in behind if message["role"] != "assistant"]
    return sum(text.count(mark) for text in texts if isinstance(text, str))
