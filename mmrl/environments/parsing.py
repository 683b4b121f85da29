"""What a policy wrote, read with suspicion: tags, tool calls, fenced JSON, coordinates. Nothing here raises."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmrl.media import IMAGE, Box
from mmrl.thoughts import behind_thoughts

_FENCE = re.compile(r"```json\b(.*?)```", re.DOTALL)
_WHOLE_NUMBER = re.compile(r"(?<![\w.])[-+]?\d{1,12}(?!\w|\.\d)", re.ASCII)


def spoken(text: str) -> str:
    """What stands behind the last thought, whatever marks it; tags inside a thought are no answers and no calls."""
    return behind_thoughts(text)


def tagged(text: str, name: str) -> list[str]:
    """Contents of <name>...</name>, in order; of nested ones the innermost, and none of those left open."""
    return re.findall(rf"<{name}>((?:(?!<{name}>).)*?)</{name}>", text, re.DOTALL)


def answered(text: str) -> bool:
    """Whether an answer that is not empty stands behind the last thought."""
    return any(answer.strip() for answer in tagged(spoken(text), "answer"))


def whole_number(text: str) -> int | None:
    """The number of the last <answer>, or of the whole text without one, if it is the only one there."""
    said = spoken(text)
    found = _WHOLE_NUMBER.findall((tagged(said, "answer") or [said])[-1])
    return int(found[0]) if len(found) == 1 else None


def plain(text: str) -> str:
    """A text that may be put into a message: what stands for pictures, or begins a special token, is taken apart."""
    for mark, apart in (
        (IMAGE, "< image >"),
        ("<|", "< |"),
        ("<IMG_CONTEXT>", "< IMG_CONTEXT>"),
    ):  # the last, InternVL's
        text = text.replace(mark, apart)
    return text


def parsed(text: str) -> Any:
    """The value of a JSON text, or None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """A list of exactly `count` numbers as floats (one too large is infinite), or None."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        return None
    return tuple(_float(v) for v in value)


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


# ---------------------------------------------------------------- tool calls


@dataclass(frozen=True)
class Call:
    """A tool call; `problem` is one word for why it cannot be read: "unclosed", "bad_json", "bad_call"."""

    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def call_in(text: str) -> Call | None:
    """The last <tool_call>{"name": ..., "arguments": {...}}</tool_call> behind the last thought; None without any."""
    said = spoken(text)
    found = tagged(said, "tool_call")
    if not found:
        return Call(problem="unclosed") if "<tool_call>" in said else None
    value = parsed(found[-1])
    if value is None:
        return Call(problem="bad_json")
    name, arguments = (value.get("name"), value.get("arguments")) if isinstance(value, dict) else (None, None)
    if isinstance(arguments, str):
        arguments = parsed(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return Call(problem="bad_call")
    return Call(name, arguments)


# ---------------------------------------------------------------- boxes in a fence


@dataclass(frozen=True)
class Pointed:
    """A box that a policy pointed at, as it wrote it; end: place in the text right behind its fence.

    problem, without a box: "no_json" (no closed ```json fence), "bad_json" (none that is JSON), "no_box".
    """

    box: Box | None = None
    end: int | None = None
    problem: str = "ok"


def pointed(text: str) -> Pointed:
    """The first item with a `bbox_2d` of four numbers in the first ```json fence that is a list of objects with one."""
    problem = "no_json"
    for fence in _FENCE.finditer(text):
        items = parsed(fence[1])
        if items is None:
            problem = "bad_json" if problem == "no_json" else problem
            continue
        problem = "no_box"
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            continue
        boxes = [box for item in items if (box := numbers(item.get("bbox_2d"), 4)) is not None]
        if boxes:
            x1, y1, x2, y2 = boxes[0]
            return Pointed((x1, y1, x2, y2), fence.end())
    return Pointed(problem=problem)
