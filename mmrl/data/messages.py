"""Messages of a conversation: their parts as texts, what was asked, what answers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

from mmrl.media import IMAGE

_PICTURES = ("image", "image_url")  # types of a message's parts, and their keys
# Says of a message of role assistant whether it is learned: ms-swift's name, and OpenAI's.
_LEARNED = ("loss", "weight")


def are_messages(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether it is a list of {"role", "content"}; a message that calls tools may have no content."""
    return isinstance(value, list) and all(
        isinstance(m, Mapping) and "role" in m and ("content" in m or m.get("tool_calls")) for m in value
    )


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
    """{"messages"} up to the last question, {"completion"} from what answers it, {"images"} that stand in the parts.

    every_turn: of a conversation that ends with an answer, all from the first answer on is the completion. begun: the
    last message is the beginning of the answer, and stays in the messages.
    """
    if not are_messages(messages):
        return {"messages": messages}
    pictures = [picture for message in messages for picture in _shown(message.get("content"))]
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
    return made


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
