"""ConsistencyRank-Bench of PaCo-RL: pictures ranked by how consistent they are with a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in

_NAME = "consistency_rank"
_FOLDER = "images"  # in which the benchmark's pictures are, beside its files of records
QUESTION = "Which picture agrees best with this one in style, logic and identity?"


def consistency_rank(record: Mapping[str, Any]) -> dict[str, Any]:
    """`folder`, `ref_image`, `comp_images`, and `rank_images`, the same from the best to the worst.

    The question is QUESTION, or the record's `prompt`, where somebody joined the benchmark's file of prompts to it. The
    shares of n candidates are those of the wins if each met each other: (n - 1 - rank) / (n (n - 1) / 2), so that their
    order is the ranking.
    """
    folder, reference = text_in(record, "folder", _NAME), text_in(record, "ref_image", _NAME)
    shown, ranked = record.get("comp_images"), record.get("rank_images")
    if not isinstance(shown, list) or not all(isinstance(name, str) and name for name in shown):
        raise ValueError(f"format {_NAME} needs `comp_images`, a list of names of pictures")
    if ranked is None:
        raise ValueError("has no label: `rank_images` has the pictures from the best to the worst")
    if not isinstance(ranked, list) or sorted(map(str, ranked)) != sorted(shown) or len(set(shown)) < len(shown):
        raise ValueError(f"`rank_images` is {ranked!r:.60}, expected each of `comp_images` once")
    count = len(shown)
    wins = [count - 1 - ranked.index(name) for name in shown]
    return {
        "prompt": record["prompt"] if isinstance(record.get("prompt"), str) else QUESTION,
        "images": [f"{_FOLDER}/{folder}/{reference}"],
        "candidates": [{"images": [f"{_FOLDER}/{folder}/{name}"]} for name in shown],
        "shares": [won / max(sum(wins), 1) for won in wins],
        "source_id": folder,
    }
