"""VL-RewardBench: its table on the hub, and the lines of JSON that R1-Reward made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in
from mmrl.data.pair_formats.columns import BETTER_FIRST, reply_in, set_apart, shown_in

_NAME = "vl_rewardbench"
_GROUPS = {
    "RLAIF": "hallucination", "RLHF": "hallucination", "hallucination": "hallucination",
    "mathverse": "reasoning", "mmmu": "reasoning",
}  # fmt: skip


def group_of(name: str) -> str:
    """The group of an id in the benchmark's own rule: by what stands before its first `_` or `-`.

    On its 1,250 records: hallucination 749, reasoning 318, general 183. Two other rules are in use, whose macro means
    are not comparable: R1-Reward's (448, 318, 484) and UnifiedReward's (301, 318, 631).
    """
    return _GROUPS.get(re.split("[_-]", name, maxsplit=1)[0], "general")


def vl_rewardbench(record: Mapping[str, Any]) -> dict[str, Any]:
    """`query`, `response` of two, `human_ranking` of two ranks from 0, `image`; or `prompt`, `chosen`, `rejected`.

    Some of its ids occur twice, so that they become `source_id`; `image` is taken out of the record, as `images`.
    """
    name = text_in(record, "id", _NAME)
    images = [shown_in(record, "image", _NAME)]
    common = {**set_apart(record), "image": None, "images": images, "category": group_of(name)}
    if "human_ranking" not in record and "response" not in record:
        answers = [reply_in(record, column, _NAME) for column in ("chosen", "rejected")]
        return {**common, "candidates": answers, "shares": BETTER_FIRST, "prompt": text_in(record, "prompt", _NAME)}
    responses, ranks = record.get("response"), record.get("human_ranking")
    if not isinstance(responses, list) or len(responses) != len(BETTER_FIRST):
        raise ValueError(f"`response` is {responses!r:.60}, expected a list of two texts")
    if ranks is None:
        raise ValueError("has no label: `human_ranking` ranks the two responses")
    if ranks not in ([0, 1], [1, 0]) or any(isinstance(rank, bool) for rank in ranks):
        raise ValueError(f"`human_ranking` is {ranks!r:.60}, expected [0, 1] or [1, 0]; 0 is better")
    prompt = text_in(record, "query", _NAME)
    return {**common, "candidates": responses, "shares": [1.0 - rank for rank in ranks], "prompt": prompt}
