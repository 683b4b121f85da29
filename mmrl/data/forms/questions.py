"""Formats of papers: questions about pictures, with what their data sets call them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import answer_in, text_in
from mmrl.data.shown import listed

_LETTERED = re.compile(r"^\s*\(?[A-Z][).:]")


def mgpo(record: Mapping[str, Any]) -> dict[str, Any]:
    """MGPO: `question`, `choices`, `answer`, `image` or `image_path`; `prompt`, where it is there, as it stands."""
    made = answer_in(record)
    picture = next((record[key] for key in ("images", "image", "image_path") if record.get(key) is not None), None)
    if picture is None:
        raise ValueError("format mgpo needs `image` or `image_path`")
    prompt = record.get("prompt")
    if isinstance(prompt, list):
        made["messages"] = prompt
    elif not isinstance(prompt, str):
        made["prompt"] = "\n".join([text_in(record, "question", "mgpo"), *choices_in(record.get("choices"))])
    return made | {"images": listed(picture)}


def visionthink(record: Mapping[str, Any]) -> dict[str, Any]:
    """VisionThink, and others: `problem` with `<image>`, `images`, `original_answer`, `info`, `doc_id`."""
    made = {"prompt": text_in(record, "problem", "visionthink")} | answer_in(record)
    return made | ({"id": record["doc_id"]} if record.get("id") is None and record.get("doc_id") is not None else {})


def mmpr(record: Mapping[str, Any]) -> dict[str, Any]:
    """MMPR: `question` with `<image>`, `image` a name or a list of them, `chosen`, `rejected`, `system_prompt`."""
    for column in ("chosen", "rejected"):
        if record.get(column) is None:
            raise ValueError(f"format mmpr needs `{column}`")
    return {"prompt": text_in(record, "question", "mmpr")} | answer_in(record)


def ui_s1(record: Mapping[str, Any]) -> dict[str, Any]:
    """UI-S1: `goal` and `steps` of {`action_content`, `screenshot`}; a step's picture is the one of its number."""
    steps = record.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, Mapping) for step in steps):
        raise ValueError("format ui_s1 needs `steps`, a list of objects that is not empty")
    made: dict[str, Any] = {"prompt": text_in(record, "goal", "ui_s1")}
    if record.get("images") is None:
        missing = [n for n, step in enumerate(steps) if step.get("screenshot") is None]
        if missing:
            raise ValueError(f"step {missing[0]} of `steps` lacks `screenshot`")
        made["images"] = [step["screenshot"] for step in steps]
    return made


def sat(record: Mapping[str, Any]) -> dict[str, Any]:
    """SAT: `question`, `answers` to choose from, `correct_answer`, `image_bytes`; asked as its paper asks."""
    answers = record.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
        raise ValueError("format sat needs `answers`, a list of texts that is not empty")
    choices = " or ".join(filter(None, [", ".join(answers[:-1]), answers[-1]]))
    prompt = f"{text_in(record, 'question', 'sat')} Choose between the following options: {choices}"
    made: dict[str, Any] = {"prompt": f"Answer in natural language. {prompt}"}
    made["answer"] = text_in(record, "correct_answer", "sat")
    pictured = record.get("image_bytes") is not None and "images" not in record
    return made | ({"images": listed(record["image_bytes"])} if pictured else {})


def choices_in(choices: Any) -> list[str]:
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
