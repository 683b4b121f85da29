"""Records as other libraries and papers publish them, made into ours.

Ours: `prompt`, a text in which each `<image>` stands for the next of the list `images`, or `messages` of {"role",
"content"} texts; `answer`; `completion`, `chosen` and `rejected` where a record has them. All other columns stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from mmrl.config import RecordFormat
from mmrl.media import IMAGE

AUTO, PLAIN = "auto", "plain"
_PICTURES = ("image", "image_url")  # types of a message's parts, and their keys
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_LETTERED = re.compile(r"^\s*\(?[A-Z][).:]")
_ANSWERS = ("answer", "solution", "original_answer")


def normalised(record: Mapping[str, Any], form: RecordFormat = "auto") -> dict[str, Any]:
    """The record in our form; one that is in our form already comes out as it is.

    form: a key of FORMATS, or auto, which tells by the columns (see `format_of`). Pure: `record` is not changed, and
    no file is opened.
    Raises ValueError for a record that lacks a column of its format, for messages or pictures that are none, and for
    one whose text has another number of `<image>` than there are pictures. Without any `<image>`, pictures stand in
    front.
    """
    name = format_of(record) if form == AUTO else form
    made = {**record, **FORMATS[name](record)}
    given = made.get("messages") or made.get("prompt")
    if isinstance(given, list) and given:
        made |= _conversation(given, made)
        made["prompt"] = last_user_text(made["messages"])
    made |= {key: _one_answer(made[key], key) for key in ("completion", "chosen", "rejected") if key in made}
    return made | _pictures(made, asked=name != PLAIN)


def format_of(record: Mapping[str, Any]) -> str:
    """The format that a record's columns are of; plain, ours, for any others."""
    has = {column for column, value in record.items() if value is not None}
    pictured = bool(has & {"image", "images", "image_path"})
    if {"goal", "steps"} <= has and "prompt" not in has:
        return "ui_s1"
    if "image_path" in has and "images" not in has and has & {"prompt", "question"}:
        return "mgpo"
    if "prompt" in has:
        return "trl" if isinstance(record["prompt"], list) else PLAIN
    if "conversations" in has:
        return "vlm_r1"
    if "messages" in has:
        return "satori" if "possible_answers" in has else "swift"
    if {"question", "chosen", "rejected"} <= has:
        return "mmpr"
    if pictured and "problem" in has:
        return "visionthink"
    return "mgpo" if pictured and "question" in has else PLAIN


# -------------------------------------------------------------------- one function a format: the columns that change


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _trl(record: Mapping[str, Any]) -> dict[str, Any]:
    """TRL: `prompt` a list of messages, or a text, with `images` or `image`."""
    prompt = record.get("prompt")
    if not isinstance(prompt, str | list):
        raise ValueError("format trl needs `prompt`, a text or a list of messages")
    return _answer(record) | ({"messages": prompt} if isinstance(prompt, list) else {})


def _swift(record: Mapping[str, Any]) -> dict[str, Any]:
    """ms-swift: `messages`, of which the last may be the answer, `images`; `rejected_response` for preferences."""
    if not isinstance(record.get("messages"), list):
        raise ValueError("format swift needs `messages`, a list of messages")
    made = _answer(record)
    rejected = record.get("rejected_response")
    if rejected is not None:
        chosen = record["messages"][-1:]
        if not _are_messages(chosen) or chosen[0]["role"] != "assistant":
            raise ValueError("`rejected_response` needs a last message of role `assistant`, the chosen one")
        made |= {"chosen": chosen, "rejected": rejected}
    return made


def _satori(record: Mapping[str, Any]) -> dict[str, Any]:
    """SATORI's VQA-Verify: ms-swift's columns with `image_caption`, `bboxs`, `width`, `height`, `possible_answers`."""
    answers = record.get("possible_answers")
    if not isinstance(answers, list) or not answers:
        raise ValueError("format satori needs `possible_answers`, a list that is not empty")
    return {"answer": answers[0]} | _swift(record)


def _mgpo(record: Mapping[str, Any]) -> dict[str, Any]:
    """MGPO: `question`, `choices`, `answer`, `image` or `image_path`; `prompt`, where it is there, as it stands."""
    made = _answer(record)
    picture = next((record[key] for key in ("images", "image", "image_path") if record.get(key) is not None), None)
    if picture is None:
        raise ValueError("format mgpo needs `image` or `image_path`")
    prompt = record.get("prompt")
    if isinstance(prompt, list):
        made["messages"] = prompt
    elif not isinstance(prompt, str):
        made["prompt"] = "\n".join([_text(record, "question", "mgpo"), *_choices(record.get("choices"))])
    return made | {"images": _listed(picture)}


def _visionthink(record: Mapping[str, Any]) -> dict[str, Any]:
    """VisionThink, and others: `problem` with `<image>`, `images`, `original_answer`, `info`, `doc_id`."""
    made = {"prompt": _text(record, "problem", "visionthink")} | _answer(record)
    return made | ({"id": record["doc_id"]} if record.get("id") is None and record.get("doc_id") is not None else {})


def _vlm_r1(record: Mapping[str, Any]) -> dict[str, Any]:
    """VLM-R1, LLaVA: `conversations` of {"from": "human" | "gpt", "value"}, `image` a name or a list of them."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(t, Mapping) and {"from", "value"} <= set(t) for t in turns):
        raise ValueError("format vlm_r1 needs `conversations`, a list of {from, value}")
    unknown = sorted({str(t["from"]) for t in turns} - set(_ROLES))
    if unknown:
        raise ValueError(f"`conversations` has {', '.join(unknown)}; expected {', '.join(_ROLES)}")
    messages = [{"role": _ROLES[t["from"]], "content": str(t["value"])} for t in turns]
    made: dict[str, Any] = {"messages": messages} | _answer(record)
    if messages and messages[-1]["role"] == "assistant" and "answer" not in made and record.get("answer") is None:
        made["answer"] = re.sub(r"</?answer>", "", messages[-1]["content"]).strip()
    told = any(record.get(column) is not None for column in ("boxes", "bboxs", "bbox", "objects"))
    return made if told else made | _boxes_of(made.get("answer", record.get("answer")))


def _mmpr(record: Mapping[str, Any]) -> dict[str, Any]:
    """MMPR: `question` with `<image>`, `image` a name or a list of them, `chosen`, `rejected`, `system_prompt`."""
    for column in ("chosen", "rejected"):
        if record.get(column) is None:
            raise ValueError(f"format mmpr needs `{column}`")
    question, system = _text(record, "question", "mmpr"), record.get("system_prompt")
    made = {"prompt": question} | _answer(record)
    if isinstance(system, str) and system.strip():
        made["messages"] = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return made


def _ui_s1(record: Mapping[str, Any]) -> dict[str, Any]:
    """UI-S1: `goal` and `steps` of {`action_content`, `screenshot`}; a step's picture is the one of its number."""
    steps = record.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, Mapping) for step in steps):
        raise ValueError("format ui_s1 needs `steps`, a list of objects that is not empty")
    made: dict[str, Any] = {"prompt": _text(record, "goal", "ui_s1")}
    if record.get("images") is None:
        missing = [n for n, step in enumerate(steps) if step.get("screenshot") is None]
        if missing:
            raise ValueError(f"step {missing[0]} of `steps` lacks `screenshot`")
        made["images"] = [step["screenshot"] for step in steps]
    return made


FORMATS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "plain": _plain,
    "trl": _trl,
    "swift": _swift,
    "satori": _satori,
    "mgpo": _mgpo,
    "visionthink": _visionthink,
    "vlm_r1": _vlm_r1,
    "mmpr": _mmpr,
    "ui_s1": _ui_s1,
}
assert {AUTO, *FORMATS} == set(get_args(RecordFormat))


def _text(record: Mapping[str, Any], column: str, form: str) -> str:
    value = record.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"format {form} needs `{column}`, a text that is not empty")
    return value


def _answer(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"answer"} from the column of another name, {} where there is none or where it is there."""
    found = next((record[column] for column in _ANSWERS if record.get(column) is not None), None)
    return {} if found is None else {"answer": found}


def _boxes_of(answer: Any) -> dict[str, Any]:
    """{"boxes"} of an answer that is JSON of one box or several, {"objects"} of one in which they have labels, or {}.

    A box is four numbers, or {"bbox_2d": them}; an empty list is both: there is nothing.
    """
    fenced = _FENCE.search(answer) if isinstance(answer, str) else None
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except (TypeError, ValueError, RecursionError):
        return {}
    items = value if isinstance(value, list) and not _is_box(value) else [value]
    if not all(_is_box(i["bbox_2d"] if isinstance(i, Mapping) and "bbox_2d" in i else i) for i in items):
        return {}
    labelled = all(isinstance(i, Mapping) and "label" in i for i in items)
    return {"boxes": [i["bbox_2d"] if isinstance(i, Mapping) else i for i in items]} | (
        {"objects": items} if labelled else {}
    )


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 4
    return numbers and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)


def _choices(choices: Any) -> list[str]:
    """A line for each choice, "A. seven", with letters where there are none."""
    if choices is None:
        return []
    if isinstance(choices, Mapping):
        return [f"{letter}. {choice}" for letter, choice in choices.items() if choice is not None]
    if not isinstance(choices, list):
        raise ValueError(f"`choices` is {type(choices).__name__}, expected a list or an object of letters")
    texts = [str(choice) for choice in choices]
    if all(_LETTERED.match(text) for text in texts):
        return texts
    return [f"{chr(ord('A') + number)}. {text}" for number, text in enumerate(texts)]


# -------------------------------------------------------------------- messages


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
            text = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
            if text.strip():
                return text
            break
    raise ValueError("`prompt` has no text in a last message of role `user`")


def _conversation(messages: Sequence[Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """{"messages"} up to the last question, {"completion"} from what answers it, {"images"} that stand in the parts."""
    if not _are_messages(messages):
        return {"messages": messages}
    pictures = [picture for message in messages for picture in _shown(message["content"])]
    texts = [{**message, "content": _joined(message["content"])} for message in messages]
    last = max((n for n, m in enumerate(texts) if m["role"] != "assistant"), default=len(texts) - 1)
    made: dict[str, Any] = {"messages": texts[: last + 1]}
    answers = texts[last + 1 :]
    if answers and not any(record.get(key) is not None for key in ("completion", "chosen")):
        made["completion"] = answers
    if pictures and not record.get("images") and not record.get("image"):
        made["images"] = pictures
    return made


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value)


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


def _one_answer(value: Any, key: str) -> Any:
    """The text of an answer that is given as messages; a text, ids or turns as they are."""
    if not isinstance(value, list) or not value or not _are_messages(value):
        return value
    if len(value) != 1 or value[0]["role"] != "assistant":
        raise ValueError(f"`{key}` has {len(value)} messages, expected one of role `assistant`")
    return _joined(value[0]["content"])


# -------------------------------------------------------------------- pictures


def _pictures(record: Mapping[str, Any], asked: bool) -> dict[str, Any]:
    """{"images"} as a list of references, {} for a record without pictures; the marks are counted.

    asked: whether a column `image` is what the question is about. Without a mark it is otherwise what the prompt
    describes, and stays.
    """
    marks = _marks(record)
    given = record.get("images")
    if given is None and (marks or asked):
        given = record.get("image")
    if given is None:
        if marks:
            raise ValueError(f"{IMAGE} stands {marks} times in the text, and there are no `images`")
        return {}
    images = [_reference(picture, number) for number, picture in enumerate(_listed(given))]
    if marks and marks != len(images):
        raise ValueError(f"{IMAGE} stands {marks} times in the text, and there are {len(images)} pictures")
    return {"images": images}


def _marks(record: Mapping[str, Any]) -> int:
    messages = record.get("messages")
    if not _are_messages(messages):
        texts = [record.get("prompt")]
    else:
        texts = [message["content"] for message in messages or ()]
    return sum(text.count(IMAGE) for text in texts if isinstance(text, str))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _reference(picture: Any, number: int) -> Any:
    """What mmrl.pictures opens: a name, a PIL picture, {"bytes"}, a function."""
    if isinstance(picture, Mapping) and picture.get("bytes") is None:
        picture = picture.get("path") or picture.get("url")
    held = isinstance(picture, Mapping) and isinstance(picture["bytes"], bytes)
    drawn = callable(picture) or (hasattr(picture, "convert") and hasattr(picture, "size"))
    if held or drawn or (isinstance(picture, str) and picture):
        return picture
    raise ValueError(f"picture {number} of `images`: expected a file name or a picture, got {type(picture).__name__}")
