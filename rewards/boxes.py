"""Boxes in a completion and those that the record holds: what the rewards of grounding and detection share."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from mmrl.boxes import marked_boxes
from mmrl.media import Box, Size, area, clipped, pictures_of, to_original
from mmrl.thoughts import without_thoughts
from mmrl.types import Prompt, Sample

from .places import said_in_tag
from .signs import ascii_signs

BOX_NAMES = ("bbox_2d", "bbox", "box")
LABEL_NAMES = ("label", "category", "class", "name")
MOST_BOXES = 300  # more are no answer, and areas of unions take time
_MOST_CHARACTERS = 40_000
_FAR = 1e7
_FENCE = re.compile(r"```(?:json|python)?[ \t]*\n?(.*?)```", re.DOTALL | re.IGNORECASE)
_NUMBER = r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*"
# Four numbers in brackets, or two corners, as Qwen2-VL writes them: (100,200),(300,400).
_QUADRUPLE = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:[\])]\s*,\s*[\[(]|,){_NUMBER},{_NUMBER}[\])]")
_TOKENS = re.compile(r"<\|(?:box|object_ref|quad)_(?:start|end)\|>")
_DENIED = re.compile(
    r"\b(?:not|isn't|instead of|rather than)\s+(?:at |in )?(?:<\|\w+\|>)*[\[(][^\[\](){}]{0,99}[\])]", re.IGNORECASE
)
_CORNERS = ("x1", "y1", "x2", "y2")


class NoBoxes(ValueError):
    """A text holds no readable list of boxes; the message says why."""


@dataclass(frozen=True)
class Item:
    """A box and what it is said to hold."""

    box: Box
    label: str = ""


def items_in(text: str, where: str = "auto", strict: bool = False) -> list[Item]:
    """The boxes that a completion gives, in its own coordinates and order; [] where it says that there are none.

    where: `tag:NAME`, the last whole <NAME>...</NAME>; `json`, the last code fence; `whole`, all of it; `auto`, the
    first of tag:bbox, tag:answer, json and whole that can be read. Thoughts are left out, and boxes after "not". In
    that place stands JSON or a Python literal: a box [x1, y1, x2, y2] or [[x1, y1], [x2, y2]], a list of them, or
    objects with `bbox_2d` (`bbox`, `box`; or `x1`, `y1`, `x2`, `y2`) and perhaps a `label`; a code fence around it is
    left out. Boxes between a family's own marks (mmrl.boxes: Qwen2-VL's, InternVL's, PaliGemma's) are those. Otherwise,
    unless strict, every four numbers in brackets are a box, and every two corners: (x1, y1), (x2, y2).
    Raises NoBoxes for what is missing, cannot be read, or is over 300 boxes; ValueError for another `where`.
    """
    if where == "auto":
        for place in ("tag:bbox", "tag:answer", "json", "whole"):
            try:
                return items_in(text, place, strict)
            except NoBoxes:
                continue
        raise NoBoxes("no readable boxes")
    way, _, name = where.partition(":")
    said = _plain(without_thoughts(text))
    if way == "tag" and name:
        piece, missing = said_in_tag(_plain(text), name), f"no whole <{name}>"
    elif where == "json":
        piece, missing = next(iter(_FENCE.findall(said)[-1:]), None), "no code fence"
    elif where == "whole":
        piece, missing = said, ""
    else:
        raise ValueError(f"where={where!r}: expected auto, tag:NAME, json or whole")
    if piece is None:
        raise NoBoxes(missing)
    marked = [Item(found.box, found.label) for found in marked_boxes(piece)]
    items = marked or _read(_TOKENS.sub("", next(iter(_FENCE.findall(piece)[-1:]), piece)).strip(), strict)
    if len(items) > MOST_BOXES:
        raise NoBoxes(f"over {MOST_BOXES} boxes")
    return items


def placed(items: Sequence[Item], sample: Sample, picture: int) -> list[Item]:
    """The items in original pixels, from the space in which the policy wrote of the shown `picture` (-1: the last).

    Raises IndexError where it was shown no such picture.
    """
    try:
        shown = pictures_of(sample.media)[picture]
    except IndexError:
        count = len(pictures_of(sample.media))
        raise IndexError(f"boxes of picture {picture} have no place: the policy was shown {count} pictures") from None
    return [Item(to_original(item.box, shown), item.label) for item in items]


def record_items(value: Any) -> list[Item]:
    """The items of a record's column: what `items_in` reads, as JSON or as lists and objects.

    Raises ValueError for what is none, and for a box that is empty, reversed or not finite.
    """
    try:
        items = _read(value.strip(), strict=True) if isinstance(value, str) else _items(value)
    except NoBoxes as error:
        raise ValueError(str(error)) from None
    for item in items:
        if not in_pixels(item.box) or area(item.box) == 0:
            raise ValueError(f"box {list(item.box)} is empty, reversed or not finite")
    return items


def in_pixels(box: Box) -> bool:
    """Whether all four are numbers that a pixel can have: not NaN, nor so large that areas overflow."""
    return all(abs(v) < _FAR for v in box)


def outside(boxes: Iterable[Box], size: Size) -> Box | None:
    """The first box of which most lies outside a picture of `size`: it was written in another space."""
    return next((box for box in boxes if area(clipped(box, size)) < 0.5 * area(box)), None)


def not_in(box: Box, sample: Sample, picture: int) -> str:
    """What to tell of a record's box that is `outside`."""
    width, height = pictures_of(sample.media)[picture].original
    return f"prompt {sample.prompt.id!r}: the record's box {list(box)} is not in a picture of {width}x{height} pixels"


def column(prompt: Prompt, names: Sequence[str]) -> Any:
    """The record's first column of these names; None without any."""
    return next((prompt.record[name] for name in names if prompt.record.get(name) is not None), None)


# -------------------------------------------------------------------- reading


def _plain(text: str) -> str:
    """In ASCII's signs, without boxes that are denied."""
    return _DENIED.sub(" ", ascii_signs(text))


def _read(text: str, strict: bool) -> list[Item]:
    if len(text) > _MOST_CHARACTERS:
        raise NoBoxes(f"over {_MOST_CHARACTERS} characters")
    try:
        return _items(_literal(text))
    except NoBoxes:
        found = [] if strict else [Item(_box([float(v) for v in numbers])) for numbers in _QUADRUPLE.findall(text)]
        if not found:
            raise
        return found


def _literal(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    raise NoBoxes("neither JSON nor a Python literal")


def _items(value: Any) -> list[Item]:
    if value is None:
        return []
    if isinstance(value, Mapping) or _is_box(value) or _is_corners(value):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise NoBoxes(f"a {type(value).__name__} is no list")
    return [_item(one) for one in value]


def _item(value: Any) -> Item:
    if not isinstance(value, Mapping):
        return Item(_box(value))
    corners = [value[name] for name in _CORNERS] if all(name in value for name in _CORNERS) else None
    box = next((value[name] for name in BOX_NAMES if name in value), corners)
    label = next((value[name] for name in LABEL_NAMES if name in value), "")
    return Item(_box(box), label if isinstance(label, str) else str(label))


def _box(value: Any) -> Box:
    if _is_corners(value):
        value = [*value[0], *value[1]]
    if not _is_box(value):
        raise NoBoxes(f"{str(value)[:60]} is not four numbers")
    try:
        x1, y1, x2, y2 = map(float, value)
    except OverflowError:  # of a whole number with hundreds of digits
        return (math.inf,) * 4
    return x1, y1, x2, y2


def _is_box(value: Any) -> bool:
    return _are_numbers(value, 4)


def _is_corners(value: Any) -> bool:
    pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    return pair and all(_are_numbers(corner, 2) for corner in value)


def _are_numbers(value: Any, count: int) -> bool:
    flat = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count
    return flat and all(isinstance(v, Real) and not isinstance(v, bool) for v in value)
