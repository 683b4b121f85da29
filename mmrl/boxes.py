"""Boxes in a text: one syntax a family of models, read and written.

A syntax is about signs alone. What the numbers mean is the coordinate space of a view (mmrl.media), and only
`to_original` and `from_original` take a box from one to another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mmrl.media import Box, Media, from_original, to_original

# Decimals of a number in a space, and the largest that is written; None: no bound.
_ROUNDED: Mapping[str, tuple[int, float | None]] = {
    "original": (0, None),
    "seen": (0, None),
    "norm1000": (0, 1000),
    "loc1024": (0, 1023),
    "norm1": (3, 1),
}
_N = r"\s*(-?\d+(?:\.\d+)?)\s*"
_CORNERS = re.compile(rf"(?:<\|box_start\|>)?\({_N},{_N}\)\s*,\s*\({_N},{_N}\)(?:<\|box_end\|>)?")
_QWEN = re.compile(
    r"(?:<\|object_ref_start\|>(?P<label>.*?)<\|object_ref_end\|>\s*)?(?P<boxes>(?:<\|box_start\|>.*?<\|box_end\|>\s*)+)",
    re.DOTALL,
)
_INTERN = re.compile(r"(?:<ref>(?P<label>.*?)</ref>\s*)?<box>(?P<boxes>.*?)</box>", re.DOTALL)
_LIST = re.compile(rf"\[{_N},{_N},{_N},{_N}\]")
_LOC = re.compile(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>[ \t]*([^<;\n]*)")


@dataclass(frozen=True)
class Labelled:
    """A box and what it is said to hold."""

    box: Box
    label: str = ""


@dataclass(frozen=True)
class Syntax:
    """write: boxes whose numbers are ready -> text. read: the boxes of a text, in its order; [] where there is none."""

    write: Callable[[Sequence[Labelled]], str]
    read: Callable[[str], list[Labelled]]


def write_boxes(items: Iterable[Labelled], media: Media) -> str:
    """Boxes in pixels of the original picture as the policy that saw `media` would write them, rounded as it does."""
    decimals, most = _ROUNDED[media.space]
    made = []
    for item in items:
        numbers = [round(v, decimals) for v in from_original(item.box, media)]
        x1, y1, x2, y2 = numbers if most is None else [min(max(v, 0), most) for v in numbers]
        made.append(Labelled((x1, y1, x2, y2), item.label))
    return SYNTAXES[media.boxes].write(made)


def read_boxes(text: str, media: Media) -> list[Labelled]:
    """The inverse of `write_boxes`, up to rounding: what is written in the policy's syntax, in original pixels."""
    return [Labelled(to_original(item.box, media), item.label) for item in SYNTAXES[media.boxes].read(text)]


def marked_boxes(text: str) -> list[Labelled]:
    """Boxes between marks that nothing else has (Qwen2-VL's, InternVL's, PaliGemma's), in the text's own numbers."""
    for name in ("paligemma", "internvl", "qwen2_vl"):
        found = SYNTAXES[name].read(text) if _MARKS[name] in text else []
        if found:
            return found
    return []


# -------------------------------------------------------------------- one pair of functions a syntax


def _write_qwen(items: Sequence[Labelled]) -> str:
    return "".join(
        (f"<|object_ref_start|>{item.label}<|object_ref_end|>" if item.label else "")
        + "<|box_start|>({},{}),({},{})<|box_end|>".format(*map(_number, item.box))
        for item in items
    )


def _read_qwen(text: str) -> list[Labelled]:
    """With its marks, or without them, as a text whose special tokens were left out has it."""
    found = [
        Labelled(_box(corners), (part["label"] or "").strip())
        for part in _QWEN.finditer(text)
        for corners in _CORNERS.findall(part["boxes"])
    ]
    return found or [Labelled(_box(corners)) for corners in _CORNERS.findall(text)]


def _write_intern(items: Sequence[Labelled]) -> str:
    return "\n".join(
        (f"<ref>{item.label}</ref>" if item.label else "")
        + "<box>[[{}, {}, {}, {}]]</box>".format(*map(_number, item.box))
        for item in items
    )


def _read_intern(text: str) -> list[Labelled]:
    found = [
        Labelled(_box(numbers), (part["label"] or "").strip())
        for part in _INTERN.finditer(text)
        for numbers in _LIST.findall(part["boxes"])
    ]
    return found or _read_plain(text)


def _write_json(items: Sequence[Labelled]) -> str:
    lines = []
    for item in items:
        box: dict[str, Any] = {"bbox_2d": [_number(v) for v in item.box]}
        lines.append(json.dumps(box | ({"label": item.label} if item.label else {}), ensure_ascii=False))
    return "```json\n[" + ",".join(f"\n\t{line}" for line in lines) + "\n]\n```"


def _read_json(text: str) -> list[Labelled]:
    """The last list of objects with `bbox_2d`, in a fence or bare."""
    for piece in [*reversed(re.findall(r"```(?:json)?\s*\n?(.*?)```", text, re.DOTALL)), text]:
        try:
            value = json.loads(piece)
        except (ValueError, RecursionError):
            continue
        items = value if isinstance(value, list) else [value]
        boxes = [(i["bbox_2d"], i.get("label", "")) for i in items if isinstance(i, dict) and "bbox_2d" in i]
        if boxes and all(_is_box(box) for box, _ in boxes):
            return [Labelled(_box(box), str(label)) for box, label in boxes]
    return []


def _write_paligemma(items: Sequence[Labelled]) -> str:
    """Rows before columns: top, left, bottom, right."""
    made = []
    for item in items:
        x1, y1, x2, y2 = item.box
        places = "".join(f"<loc{round(v):04d}>" for v in (y1, x1, y2, x2))
        made.append(f"{places} {item.label}".rstrip())
    return " ; ".join(made)


def _read_paligemma(text: str) -> list[Labelled]:
    found = []
    for y1, x1, y2, x2, label in _LOC.findall(text):
        found.append(Labelled(_box((x1, y1, x2, y2)), label.strip()))
    return found


def _write_plain(items: Sequence[Labelled]) -> str:
    lists = ["[" + ", ".join(str(_number(v)) for v in item.box) + "]" for item in items]
    return "\n".join(f"{item.label}: {box}" if item.label else box for item, box in zip(items, lists))


def _read_plain(text: str) -> list[Labelled]:
    found = []
    for line in text.splitlines():
        for match in _LIST.finditer(line):
            before = line[: match.start()].strip()
            label = before[:-1].strip() if before.endswith(":") else ""
            found.append(Labelled(_box(match.groups()), label))
    return found


SYNTAXES: Mapping[str, Syntax] = MappingProxyType(
    {
        "qwen2_vl": Syntax(_write_qwen, _read_qwen),
        "json": Syntax(_write_json, _read_json),
        "internvl": Syntax(_write_intern, _read_intern),
        "paligemma": Syntax(_write_paligemma, _read_paligemma),
        "plain": Syntax(_write_plain, _read_plain),
    }
)
_MARKS = {"qwen2_vl": "<|box_start|>", "internvl": "<box>", "paligemma": "<loc"}


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _box(numbers: Sequence[Any]) -> Box:
    x1, y1, x2, y2 = map(float, numbers)
    return x1, y1, x2, y2


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 4
    return numbers and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
