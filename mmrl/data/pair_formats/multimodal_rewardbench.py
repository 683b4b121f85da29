"""Multimodal RewardBench: two outputs for a text and a picture, which its script collects from their sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in
from mmrl.data.pair_formats.columns import reply_in, set_apart, shown_in

_NAME = "multimodal_rewardbench"
_LABELS = {"Output1": [1.0, 0.0], "Output2": [0.0, 1.0]}
# Category -> (how the ids of its first part begin, first part, second part).
_SPLIT = {"safety": ("pairs", "bias", "toxicity"), "reasoning": ("math", "math", "coding")}


def category_of(category: str, name: str) -> str:
    """The benchmark's own categories: safety and reasoning are counted in two parts each, which the id tells."""
    if category not in _SPLIT:
        return category
    begin, first, second = _SPLIT[category]
    return f"{category}/{first if name.lower().startswith(begin) else second}"


def multimodal_rewardbench(record: Mapping[str, Any]) -> dict[str, Any]:
    """`ID`, `Text`, `Image`, `Output1`, `Output2`, `Better` ("Output1" or "Output2"), `Category`."""
    better = record.get("Better")
    if better is None:
        raise ValueError("has no label: `Better` names an output")
    if not isinstance(better, str) or better not in _LABELS:
        raise ValueError(f"`Better` is {better!r:.60}, expected {' or '.join(_LABELS)}")
    return {
        **set_apart(record, "ID"),
        "prompt": text_in(record, "Text", _NAME),
        "images": [shown_in(record, "Image", _NAME)],
        "candidates": [reply_in(record, column, _NAME) for column in _LABELS],
        "shares": _LABELS[better],
        "category": category_of(text_in(record, "Category", _NAME), text_in(record, "ID", _NAME)),
    }
