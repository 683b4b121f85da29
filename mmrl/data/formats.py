"""Records as other libraries and papers publish them, made into ours.

Ours: `prompt`, a text in which each `<image>` stands for the next of the list `images`, or `messages` of {"role",
"content"} texts; `answer`; `completion`, `chosen` and `rejected` where a record has them. All other columns stay.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from mmrl.config import RecordFormat
from mmrl.data.candidates import is_pair, with_candidates
from mmrl.data.messages import (
    are_messages,
    conversation,
    last_user_text,
    messages_in,
    one_answer,
    with_prompt_inside,
    with_system,
)
from mmrl.data.shown import listed, pictures, refuse_unknown_marks
from mmrl.data.template import are_schemas, handed_to_template

AUTO, PLAIN = "auto", "plain"
SYSTEM = ("system", "system_prompt")
# Columns that are shown or learned: null in them, as in a table of mixed rows, is a column that is not there.
_ABSENT = (
    "messages", "conversations", "context_messages", "images", "image", "image_path", *SYSTEM, "completion", "chosen",
    "rejected", "rejected_response", "rejected_messages",
)  # fmt: skip
# Columns of these formats that would change what a policy sees, and that nothing here shows.
_UNSEEN_MEDIA = ("video", "videos", "audio", "audios", "rejected_images")
_MESSAGES = ("prompt", "messages", "conversations", "context_messages", "completion", "chosen", "rejected")
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "observation": "tool", "tool": "tool", "function_call": "assistant",
}  # fmt: skip
_GOLD = 64  # letters of a `solution` that is an answer, and not the way to one
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_LETTERED = re.compile(r"^\s*\(?[A-Z][).:]")
_ANSWERS = ("answer", "solution", "original_answer")


def normalised(record: Mapping[str, Any], form: RecordFormat = "auto", every_turn: bool = False) -> dict[str, Any]:
    """The record in our form; one that is in our form already comes out as it is.

    form: a key of FORMATS, or auto, which tells by the columns (see `format_of`). every_turn: of messages that end with
    an answer, every answer is one to learn, not only the last (see messages.conversation). Pure: `record` is not
    changed, and no file is opened.
    Raises ValueError for a record that lacks a column of its format, for messages or pictures that are none, and for
    one whose text has another number of `<image>` than there are pictures. Without any `<image>`, pictures stand in
    front.
    """
    record = _without_empty(record)
    name = format_of(record) if form == AUTO else form
    made = {**record, **FORMATS[name](record)}
    made |= with_prompt_inside(made.get("chosen"), made.get("rejected"), made.get("prompt"))
    given = made.get("messages") or made.get("prompt")
    if isinstance(given, list) and given:
        begun = bool(made.get("continue_final_message"))
        made |= conversation(given, made, every_turn, begun)
        made["prompt"] = last_user_text(made["messages"])
    elif not isinstance(made.get("messages", []), list | None):
        raise ValueError("`messages` must be a list of {role, content}")
    if name != PLAIN:
        made |= _told_first(made)
    refuse_unknown_marks(made)
    made |= handed_to_template(made)
    made |= {key: one_answer(made[key], key) for key in ("completion", "chosen", "rejected") if key in made}
    paired = with_candidates(made)
    return made | pictures(made, asked=name != PLAIN or bool(paired)) | paired


def format_of(record: Mapping[str, Any]) -> str:
    """The format that a record's columns are of; plain, ours, for any others."""
    has = {column for column, value in _without_empty(record).items() if value is not None}
    whole = all(isinstance(record.get(column), list) for column in ("chosen", "rejected"))
    pictured = bool(has & {"image", "images", "image_path"})
    if is_pair(record):
        return PLAIN
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
    if "context_messages" in has or (whole and "question" not in has):
        return "trl"
    if {"question", "chosen", "rejected"} <= has:
        return "mmpr"
    if {"question", "answers", "correct_answer", "image_bytes"} <= has:
        return "sat"
    if "query" in has:
        return "swift"
    if "instruction" in has:
        return "alpaca"
    if pictured and "problem" in has:
        return "visionthink"
    return "mgpo" if pictured and "question" in has else PLAIN


def unseen(record: Mapping[str, Any], form: RecordFormat = "auto") -> set[str]:
    """Columns of a record that would change what a policy sees in other libraries, and do not here."""
    record = _without_empty(record)
    name = format_of(record) if form == AUTO else form
    found = {column for column in (() if name == PLAIN else _UNSEEN_MEDIA) if record.get(column)}
    if name == PLAIN:
        if isinstance(record.get("tools"), list) and not are_schemas(record["tools"]):
            found.add("tools")
        messages = record.get("messages")
        first = messages[0] if are_messages(messages) else {}
        said = first.get("content") if first.get("role") == "system" else None
        found |= {column for column in SYSTEM if record.get(column) and record[column] != said}
        return found
    shown = listed(record["images"]) if "images" in record else []
    names = {column: record.get(column) for column in ("image", "image_path")} if shown else {}
    return found | {column for column, name in names.items() if isinstance(name, str) and name not in shown}


def _without_empty(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without columns of _ABSENT that are null, nor `images` and `messages` that are empty lists.

    They say as much as a column that is not there. Others stay, for a reward may be meant to meet their null. Messages
    that are a text of JSON, as a table without lists holds them, are read.
    """
    record = {**record, **{key: told for key in _MESSAGES if (told := messages_in(record.get(key))) is not None}}
    empty = {key for key in ("images", "messages") if isinstance(record.get(key), list | tuple) and not record[key]}
    empty |= {key for key in _ABSENT if record.get(key) is None}
    return {key: value for key, value in record.items() if key not in empty}


def _told_first(made: Mapping[str, Any]) -> dict[str, Any]:
    """{"messages"} that begin with the text of a column of SYSTEM, {} where there is none."""
    found = {column: made[column] for column in SYSTEM if made.get(column) is not None}
    for column, text in found.items():
        if not isinstance(text, str):
            raise ValueError(f"`{column}` is {type(text).__name__}, expected a text")
    texts = {text for text in found.values() if text.strip()}
    if len(texts) > 1:
        raise ValueError(f"{' and '.join(f'`{column}`' for column in found)} say different things")
    if not texts:
        return {}
    messages = made.get("messages") or [{"role": "user", "content": made.get("prompt")}]
    return {"messages": with_system(messages, texts.pop(), next(iter(found)))}


# -------------------------------------------------------------------- one function a format: the columns that change


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Ours. A `solution` that is short is the answer; a long one is the way to it, which may mark an answer."""
    solution = record.get("solution")
    if any(record.get(column) is not None for column in _ANSWERS if column != "solution") or solution is None:
        return {}
    short = isinstance(solution, str) and len(solution) <= _GOLD and "\n" not in solution.strip()
    number = isinstance(solution, int | float) and not isinstance(solution, bool)
    return {"answer": solution} if short or number else {}


def _trl(record: Mapping[str, Any]) -> dict[str, Any]:
    """TRL, OpenRLHF: `prompt` (or `context_messages`) a list of messages, or a text, with `images` or `image`.

    Where the last message is the assistant's, the policy continues it. Preferences may have the prompt inside of
    `chosen` and `rejected` alone.
    """
    prompt = record.get("prompt", record.get("context_messages"))
    inside = prompt is None and all(isinstance(record.get(column), list) for column in ("chosen", "rejected"))
    if not (inside or isinstance(prompt, str | list)):
        raise ValueError("format trl needs `prompt`, a text or a list of messages")
    made = _answer(record)
    if isinstance(prompt, list):
        made["messages"] = prompt
        if are_messages(prompt[-1:]) and prompt[-1:] and prompt[-1]["role"] == "assistant":
            made["continue_final_message"] = record.get("continue_final_message", True)
    return made


def _swift(record: Mapping[str, Any]) -> dict[str, Any]:
    """ms-swift: `messages`, of which the last may be the answer, or `query`, `response` and `history`; `images`;
    `rejected_response` or `rejected_messages` for preferences."""
    record = {**record, **_asked_and_said(record, "query", "response", "swift")}
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise ValueError("format swift needs `messages`, a list of messages, or `query`")
    objects = record.get("objects")
    if isinstance(objects, Mapping) and {"ref", "bbox"} & set(objects):
        raise ValueError("`objects` of {ref, bbox} fill marks in ms-swift's texts; write the words into `messages`")
    made = _answer(record) | {"messages": messages}
    if record.get("rejected_messages") is not None:
        return made | {"chosen": messages, "rejected": record["rejected_messages"]}
    rejected = record.get("rejected_response")
    if rejected is not None:
        chosen = messages[-1:]
        if not are_messages(chosen) or chosen[0]["role"] != "assistant":
            raise ValueError("`rejected_response` needs a last message of role `assistant`, the chosen one")
        made |= {"messages": messages[:-1], "chosen": chosen, "rejected": rejected}
    return made


def _alpaca(record: Mapping[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory, Alpaca: `instruction`, `input`, `output`, `history`; `chosen` and `rejected` for preferences."""
    words = [_text(record, "instruction", "alpaca")]
    if record.get("input"):
        words.append(_text(record, "input", "alpaca"))
    return _answer(record) | _asked_and_said({**record, "asked": "\n".join(words)}, "asked", "output", "alpaca")


def _asked_and_said(record: Mapping[str, Any], asked: str, said: str, form: str) -> dict[str, Any]:
    """{"messages"} of a question with its answer, and of a `history` of pairs before it; {} without the question."""
    if record.get(asked) is None:
        return {}
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise ValueError("`history` must be a list of [question, answer]")
    pairs = [*history, (_text(record, asked, form), record.get(said))]
    messages = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair)
        if text is not None
    ]
    return {"messages": messages}


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
    return made | {"images": listed(picture)}


def _visionthink(record: Mapping[str, Any]) -> dict[str, Any]:
    """VisionThink, and others: `problem` with `<image>`, `images`, `original_answer`, `info`, `doc_id`."""
    made = {"prompt": _text(record, "problem", "visionthink")} | _answer(record)
    return made | ({"id": record["doc_id"]} if record.get("id") is None and record.get("doc_id") is not None else {})


def _vlm_r1(record: Mapping[str, Any]) -> dict[str, Any]:
    """VLM-R1, LLaVA: `conversations` of {"from": "human" | "gpt", "value"}, `image` a name or a list of them."""
    turns = record.get("conversations")
    if turns and are_messages(turns):
        return _answer(record) | {"messages": turns}
    if not isinstance(turns, list) or not all(isinstance(t, Mapping) and {"from", "value"} <= set(t) for t in turns):
        raise ValueError("format vlm_r1 needs `conversations`, a list of {from, value}")
    unknown = [t["from"] for t in turns if not isinstance(t["from"], str) or t["from"] not in _ROLES]
    if unknown:
        raise ValueError(f"`conversations` has {unknown[0]!r:.60}; expected {', '.join(_ROLES)}")
    if any(t["value"] is None for t in turns):
        raise ValueError("`conversations` has a `value` that is null, expected a text")
    messages = [_message(turn) for turn in turns]
    made: dict[str, Any] = {"messages": messages} | _answer(record)
    for column in ("chosen", "rejected"):
        if isinstance(record.get(column), Mapping) and {"from", "value"} <= set(record[column]):
            made[column] = [_message(record[column])]
    if messages and messages[-1]["role"] == "assistant" and "answer" not in made and record.get("answer") is None:
        made["answer"] = re.sub(r"</?answer>", "", messages[-1]["content"]).strip()
    told = any(record.get(column) is not None for column in ("boxes", "bboxs", "bbox", "objects"))
    return made if told else made | _boxes_of(made.get("answer", record.get("answer")))


def _message(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a ShareGPT turn; `function_call` holds the JSON of one call, or of a list of them."""
    value = turn["value"] if isinstance(turn["value"], str) else json.dumps(turn["value"])
    role = _ROLES.get(turn["from"], turn["from"])
    if turn["from"] != "function_call":
        return {"role": role, "content": value}
    try:
        calls = json.loads(value)
    except ValueError:
        calls = None
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise ValueError(f"a `function_call` is no JSON of {{name, arguments}}: {value:.60}")
    return {"role": role, "content": "", "tool_calls": [{"type": "function", "function": call} for call in calls]}


def _mmpr(record: Mapping[str, Any]) -> dict[str, Any]:
    """MMPR: `question` with `<image>`, `image` a name or a list of them, `chosen`, `rejected`, `system_prompt`."""
    for column in ("chosen", "rejected"):
        if record.get(column) is None:
            raise ValueError(f"format mmpr needs `{column}`")
    return {"prompt": _text(record, "question", "mmpr")} | _answer(record)


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


def _sat(record: Mapping[str, Any]) -> dict[str, Any]:
    """SAT: `question`, `answers` to choose from, `correct_answer`, `image_bytes`; asked as its paper asks."""
    answers = record.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
        raise ValueError("format sat needs `answers`, a list of texts that is not empty")
    choices = " or ".join(filter(None, [", ".join(answers[:-1]), answers[-1]]))
    prompt = f"{_text(record, 'question', 'sat')} Choose between the following options: {choices}"
    made: dict[str, Any] = {"prompt": f"Answer in natural language. {prompt}"}
    made["answer"] = _text(record, "correct_answer", "sat")
    pictured = record.get("image_bytes") is not None and "images" not in record
    return made | ({"images": listed(record["image_bytes"])} if pictured else {})


FORMATS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "plain": _plain,
    "trl": _trl,
    "swift": _swift,
    "alpaca": _alpaca,
    "satori": _satori,
    "mgpo": _mgpo,
    "visionthink": _visionthink,
    "vlm_r1": _vlm_r1,
    "mmpr": _mmpr,
    "ui_s1": _ui_s1,
    "sat": _sat,
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
    return numbers and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < math.inf for v in value)


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
