"""MM-RLHF-RewardBench: several pairs a question, about a picture or the frames of a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in
from mmrl.data.pair_formats.columns import BETTER_FIRST, reply_in, set_apart
from mmrl.data.shown import listed

_NAME = "mm_rlhf"
_CATEGORIES = ("mcq", "long", "short", "safety", "video")  # in the order in which the benchmark looks for them


def mm_rlhf(record: Mapping[str, Any]) -> dict[str, Any]:
    """`prompt`, `chosen`, `rejected`, and `image`, a name, or `video`, a folder of frames (which come as `images`).

    The category is the first word of CATEGORIES in the name of the picture or video, "" without one. An id is that of a
    question, with a pair for each two of its answers: it becomes the `unit`, which is right where all of its pairs are
    (Acc+).
    """
    shown = listed(record["images"]) if record.get("images") else listed(record.get("image"))
    if shown in ([None], []):
        raise ValueError(f"format {_NAME} needs `image` or `video`; both are missing")
    answers = [reply_in(record, column, _NAME) for column in ("chosen", "rejected")]
    return {
        **set_apart(record),
        "prompt": text_in(record, "prompt", _NAME),
        "images": shown,
        "candidates": answers,
        "shares": BETTER_FIRST,
        "category": next((word for word in _CATEGORIES if word in _place(shown[0])), ""),
        "unit": text_in(record, "id", _NAME),
    }


def _place(ref: Any) -> str:
    """Where a picture, or the first frame of a video, is."""
    if isinstance(ref, Mapping):
        ref = ref["frames"][0] if ref.get("frames") else ref.get("path")
    return ref if isinstance(ref, str) else ""
