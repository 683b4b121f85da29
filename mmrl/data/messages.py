"""Messages of a conversation: their parts as texts, what was asked, what answers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from mmrl.media import IMAGE

_PICTURES = ("image", "image_url")  # types of a message's parts, and their keys


def are_messages(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether it is a list of {"role", "content"}."""
    return isinstance(value, list) and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value)


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


def conversation(messages: Sequence[Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """{"messages"} up to the last question, {"completion"} from what answers it, {"images"} that stand in the parts."""
    if not are_messages(messages):
        return {"messages": messages}
    pictures = [picture for message in messages for picture in _shown(message["content"])]
    texts = [{**message, "content": _joined(message["content"])} for message in messages]
    for number, message in enumerate(texts):
        if not isinstance(message["role"], str) or not isinstance(message["content"], str):
            raise ValueError(f"message {number} of `prompt` has no text in `role` or in `content`")
    last = max((n for n, m in enumerate(texts) if m["role"] != "assistant"), default=len(texts) - 1)
    made: dict[str, Any] = {"messages": texts[: last + 1]}
    answers = texts[last + 1 :]
    if answers and not any(record.get(key) is not None for key in ("completion", "chosen")):
        made["completion"] = answers
    beside = record.get("images") or record.get("image")
    if pictures and beside and beside not in (pictures, *(pictures if len(pictures) == 1 else ())):
        raise ValueError("pictures stand in the messages and in `images` or `image`, and are not the same")
    if pictures and not beside:
        made["images"] = pictures
    return made


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
    """The text of an answer that is given as messages; a text, ids or turns as they are."""
    if not isinstance(value, list) or not value or not are_messages(value):
        return value
    if len(value) != 1 or value[0]["role"] != "assistant":
        raise ValueError(f"`{key}` has {len(value)} messages, expected one of role `assistant`")
    return _joined(value[0]["content"])


def _joined(content: Any) -> Any:
    """A message's parts as one text, `<image>` for each picture; anything else as it is."""
    if not isinstance(content, list):
        return content
    return "".join(IMAGE if _is_picture(part) else _words(part) for part in content)


def _words(part: Any) -> str:
    text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str):
        raise ValueError(f"a part of a message is neither text nor picture: {str(part)[:60]}")
    return text


def _is_picture(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    kind = part.get("type")
    return kind in _PICTURES if kind is not None else any(part.get(key) is not None for key in _PICTURES)


def _shown(content: Any) -> Iterable[Any]:
    """Pictures that stand in the parts themselves: {"type": "image", "image": ...}."""
    for part in content if isinstance(content, list) else ():
        if _is_picture(part):
            found = next((part[key] for key in _PICTURES if part.get(key) is not None), None)
            if isinstance(found, Mapping) and "url" in found:
                found = found["url"]
            if found is not None:
                yield found
