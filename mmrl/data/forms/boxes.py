"""Answers that are JSON of boxes, as the columns that rewards read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def boxes_of(answer: Any) -> dict[str, Any]:
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
