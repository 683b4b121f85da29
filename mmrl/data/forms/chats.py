"""Formats of training libraries: chats, questions with their answers, and preferences between two answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.boxes import boxes_of
from mmrl.data.forms.columns import ANSWERS, answer_in, text_in
from mmrl.data.messages import are_messages, with_prompt_inside
from mmrl.data.shown import image_marks, listed
from mmrl.media import IMAGE

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "observation": "tool", "tool": "tool", "function_call": "assistant",
}  # fmt: skip
_BOTH = ("images", "rejected_images")
ASSISTANT = "\n\nAssistant:"  # how Anthropic's HH-RLHF begins an answer
_GOLD = 64  # letters of a `solution` that is an answer, and not the way to one


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Ours. A `solution` that is short is the answer; a long one is the way to it, which may mark an answer."""
    solution = record.get("solution")
    if any(record.get(column) is not None for column in ANSWERS if column != "solution") or solution is None:
        return {}
    short = isinstance(solution, str) and len(solution) <= _GOLD and "\n" not in solution.strip()
    number = isinstance(solution, int | float) and not isinstance(solution, bool)
    return {"answer": solution} if short or number else {}


def trl(record: Mapping[str, Any]) -> dict[str, Any]:
    """TRL, OpenRLHF: `prompt` (or `context_messages`) a list of messages, or a text, with `images` or `image`.

    Where the last message is the assistant's, the policy continues it. Preferences may have the prompt inside of
    `chosen` and `rejected` alone: as messages, or as the words with which both texts begin.
    """
    prompt = record.get("prompt", record.get("context_messages"))
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        return answer_in(record) | _begun_alike(chosen, rejected)
    inside = prompt is None and all(isinstance(record.get(column), list) for column in ("chosen", "rejected"))
    if not (inside or isinstance(prompt, str | list)):
        raise ValueError("format trl needs `prompt`, a text or a list of messages")
    made = answer_in(record)
    if isinstance(prompt, list):
        made["messages"] = prompt
        if answered(prompt):
            made["continue_final_message"] = record.get("continue_final_message", True)
    return made


def _begun_alike(chosen: str, rejected: str) -> dict[str, Any]:
    """{"prompt", "chosen", "rejected"} of two whole texts, which begin alike.

    The prompt is what they have in common up to its last ASSISTANT, or else its whole words, as TRL's `extract_prompt`
    has it to the letter. Raises ValueError where there is nothing.
    """
    alike = chosen[: next((n for n, (a, b) in enumerate(zip(chosen, rejected)) if a != b), len(chosen))]
    marked = alike.rfind(ASSISTANT)
    prompt = alike[: marked + len(ASSISTANT)] if marked >= 0 else _whole_words(alike)
    if not prompt.strip():
        raise ValueError("there is no `prompt`, and `chosen` and `rejected` do not begin with the same words")
    return {"prompt": prompt, "chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]}


def _whole_words(text: str) -> str:
    """The text without the space, or the piece of a word, that it ends with."""
    if text[-1:].isspace():
        return text.rstrip()
    pieces = text.rsplit(None, 1)
    return pieces[0] if len(pieces) > 1 else ""


def swift(record: Mapping[str, Any]) -> dict[str, Any]:
    """ms-swift: `messages`, of which the last may be the answer, or `query`, `response` and `history`; `images`;
    `rejected_response`, `rejected_messages` or `rejected_images` for preferences."""
    record = {**record, **asked_and_said(record, "query", "response", "swift")}
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise ValueError("format swift needs `messages`, a list of messages, or `query`")
    objects = record.get("objects")
    if isinstance(objects, Mapping) and {"ref", "bbox"} & set(objects):
        raise ValueError("`objects` of {ref, bbox} fill marks in ms-swift's texts; write the words into `messages`")
    made = answer_in(record) | {"messages": messages}
    if record.get("rejected_images") is not None and answered(messages):
        return made | _rejected_pictures(record, messages)
    if record.get("rejected_messages") is not None:
        return made | {"chosen": messages, "rejected": record["rejected_messages"]}
    rejected = record.get("rejected_response")
    if rejected is None:
        return made
    if not answered(messages):
        raise ValueError("`rejected_response` needs a last message of role `assistant`, the chosen one")
    return made | {"messages": messages[:-1], "chosen": messages[-1:], "rejected": rejected}


def answered(messages: Any) -> bool:
    """Whether messages end with an answer."""
    return bool(messages) and are_messages(messages[-1:]) and messages[-1]["role"] == "assistant"


def _rejected_pictures(record: Mapping[str, Any], messages: list[Any]) -> dict[str, Any]:
    """Two answers, of which the rejected one is about `rejected_images` in the places of `images`.

    Where these are others, they are no pictures of the question: each candidate has its own, and the question no
    marks. Without another answer it is the chosen one's, to other pictures.
    """
    whole, rejected = record.get("rejected_messages"), record.get("rejected_response")
    if whole is not None:
        pair = with_prompt_inside(messages, whole, None)
        if not pair:
            raise ValueError("`rejected_messages` must be a list of messages with an answer")
    else:
        pair = {
            "messages": messages[:-1],
            "chosen": messages[-1:],
            "rejected": messages[-1:] if rejected is None else rejected,
        }
    used = {"rejected_images": None, "rejected_messages": None, "rejected_response": None}
    pictures, others = (listed(record[column]) if record.get(column) is not None else [] for column in _BOTH)
    if pictures == others:
        return {**used, **pair}
    asked = pair.pop("messages")
    if not are_messages(asked) or not all(isinstance(message.get("content"), str) for message in asked):
        raise ValueError("beside `rejected_images` the messages must be texts, with <image> for each of `images`")
    marks = image_marks(asked)
    if marks and marks != len(others):
        raise ValueError(f"{IMAGE} stands {marks} times in the text, and there are {len(others)} `rejected_images`")
    return {
        **used,
        "messages": [{**message, "content": message["content"].replace(IMAGE, "")} for message in asked],
        "images": None,
        "candidates": [
            {"answer": pair["chosen"], "images": pictures},
            {"answer": pair["rejected"], "images": others},
        ],
        "shares": [1.0, 0.0],
    }


def alpaca(record: Mapping[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory, Alpaca: `instruction`, `input`, `output`, `history`; `chosen` and `rejected` for preferences."""
    words = [text_in(record, "instruction", "alpaca")]
    if record.get("input"):
        words.append(text_in(record, "input", "alpaca"))
    return answer_in(record) | asked_and_said({**record, "asked": "\n".join(words)}, "asked", "output", "alpaca")


def asked_and_said(record: Mapping[str, Any], asked: str, said: str, form: str) -> dict[str, Any]:
    """{"messages"} of a question with its answer, and of a `history` of pairs before it; {} without the question."""
    if record.get(asked) is None:
        return {}
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise ValueError("`history` must be a list of [question, answer]")
    pairs = [*history, (text_in(record, asked, form), record.get(said))]
    messages = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair)
        if text is not None
    ]
    return {"messages": messages}


def satori(record: Mapping[str, Any]) -> dict[str, Any]:
    """SATORI's VQA-Verify: ms-swift's columns with `image_caption`, `bboxs`, `width`, `height`, `possible_answers`."""
    answers = record.get("possible_answers")
    if not isinstance(answers, list) or not answers:
        raise ValueError("format satori needs `possible_answers`, a list that is not empty")
    return {"answer": answers[0]} | swift(record)


def vlm_r1(record: Mapping[str, Any]) -> dict[str, Any]:
    """VLM-R1, LLaVA: `conversations` of {"from": "human" | "gpt", "value"}, `image` a name or a list of them."""
    turns = record.get("conversations")
    if turns and are_messages(turns):
        return answer_in(record) | {"messages": turns}
    if not isinstance(turns, list) or not all(isinstance(t, Mapping) and {"from", "value"} <= set(t) for t in turns):
        raise ValueError("format vlm_r1 needs `conversations`, a list of {from, value}")
    unknown = [t["from"] for t in turns if not isinstance(t["from"], str) or t["from"] not in _ROLES]
    if unknown:
        raise ValueError(f"`conversations` has {unknown[0]!r:.60}; expected {', '.join(_ROLES)}")
    if any(t["value"] is None for t in turns):
        raise ValueError("`conversations` has a `value` that is null, expected a text")
    messages = [_message(turn) for turn in turns]
    made: dict[str, Any] = {"messages": messages} | answer_in(record)
    for column in ("chosen", "rejected"):
        if isinstance(record.get(column), Mapping) and {"from", "value"} <= set(record[column]):
            made[column] = [_message(record[column])]
    if messages and messages[-1]["role"] == "assistant" and "answer" not in made and record.get("answer") is None:
        made["answer"] = re.sub(r"</?answer>", "", messages[-1]["content"]).strip()
    told = any(record.get(column) is not None for column in ("boxes", "bboxs", "bbox", "objects"))
    return made if told else made | boxes_of(made.get("answer", record.get("answer")))


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
