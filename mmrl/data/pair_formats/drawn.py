"""Two pictures drawn, or edited, for one text: Pick-a-Pic, HPDv3, EditReward, EditReward-Bench."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in
from mmrl.data.pair_formats.columns import BETTER_FIRST, shown_in

_PICK = "pickapic"
_HPD = "hpdv3"
_EDIT = "editreward_bench"
_LABELS = ((1, 0), (0, 1), (0.5, 0.5))


def pickapic(record: Mapping[str, Any]) -> dict[str, Any]:
    """`caption`, `jpg_0` and `jpg_1` (bytes), `label_0` and `label_1`: 1 and 0, 0 and 1, or 0.5 each for a tie.

    The columns of bytes are taken out of the record. Raises ValueError where `has_label` is false.
    """
    labels = (record.get("label_0"), record.get("label_1"))
    if record.get("has_label") is False or None in labels:
        raise ValueError("has no label: nobody chose between the two pictures")
    if labels not in _LABELS or any(isinstance(label, bool) for label in labels):
        raise ValueError(f"`label_0` and `label_1` are {labels!r:.60}, expected 1 and 0, 0 and 1, or 0.5 and 0.5")
    pictures = [shown_in(record, column, _PICK) for column in ("jpg_0", "jpg_1")]
    return {
        "prompt": text_in(record, "caption", _PICK),
        "candidates": [{"images": [{"bytes": one} if isinstance(one, bytes) else one]} for one in pictures],
        "shares": list(labels),
        "jpg_0": None,
        "jpg_1": None,
    }


def hpdv3(record: Mapping[str, Any]) -> dict[str, Any]:
    """`prompt`, `path1`, which is preferred, `path2`; `choice_dist`, the votes, and `confidence` may be null.

    Votes become soft labels, the larger number for `path1`, as HPSv3 has them: they need not stand in the order of the
    pictures. EditReward's records have `path_src`, the picture that was edited, which is what the pair is about, and
    `tie_case`.
    """
    made: dict[str, Any] = {
        "prompt": text_in(record, "prompt", _HPD),
        "candidates": [{"images": [shown_in(record, column, _HPD)]} for column in ("path1", "path2")],
        "shares": [0.5, 0.5] if record.get("tie_case") is True else _votes(record.get("choice_dist")),
    }
    if record.get("path_src") is not None:
        made["images"] = [record["path_src"]]
    if record.get("confidence") == "null":  # as some of its files write it
        made["confidence"] = None
    return made


def editreward_bench(record: Mapping[str, Any]) -> dict[str, Any]:
    """`instruction`, `input_image`, `output_images` of two, the first of which is better in the `dimension` that is
    asked about; with `task_type` it is the category."""
    outputs = record.get("output_images")
    if not isinstance(outputs, list) or len(outputs) != len(BETTER_FIRST):
        raise ValueError(f"format {_EDIT} needs `output_images`, a list of two pictures; it is {outputs!r:.60}")
    return {
        "prompt": text_in(record, "instruction", _EDIT),
        "images": [shown_in(record, "input_image", _EDIT)],
        "candidates": [{"images": [picture]} for picture in outputs],
        "shares": BETTER_FIRST,
        "category": f"{text_in(record, 'dimension', _EDIT)}/{text_in(record, 'task_type', _EDIT)}",
        "input_image": None,
        "output_images": None,
    }


def _votes(given: Any) -> list[float]:
    if given is None:
        return BETTER_FIRST
    numbers = isinstance(given, list) and all(
        isinstance(vote, int | float) and not isinstance(vote, bool) and 0 <= vote < math.inf for vote in given
    )
    if not numbers or len(given) != len(BETTER_FIRST) or not sum(given):
        raise ValueError(f"`choice_dist` is {given!r:.60}, expected two numbers of votes")
    return [vote / sum(given) for vote in sorted(given, reverse=True)]
