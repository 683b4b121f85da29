"""All formats of pairs, and the columns that tell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmrl.data.pair_formats.consistency_rank import consistency_rank
from mmrl.data.pair_formats.drawn import editreward_bench, hpdv3, pickapic
from mmrl.data.pair_formats.mm_rlhf import mm_rlhf
from mmrl.data.pair_formats.multimodal_rewardbench import multimodal_rewardbench
from mmrl.data.pair_formats.r1_reward import r1_reward
from mmrl.data.pair_formats.rewardbench import rewardbench, rewardbench2
from mmrl.data.pair_formats.vl_rewardbench import vl_rewardbench

PAIR_FORMATS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "r1_reward": r1_reward,
    "vl_rewardbench": vl_rewardbench,
    "mm_rlhf": mm_rlhf,
    "multimodal_rewardbench": multimodal_rewardbench,
    "rewardbench": rewardbench,
    "rewardbench2": rewardbench2,
    "pickapic": pickapic,
    "hpdv3": hpdv3,
    "editreward_bench": editreward_bench,
    "consistency_rank": consistency_rank,
}
# Formats of which a column `video` is shown though no text marks its place.
WITH_VIDEO = {"mm_rlhf"}
# Format -> columns that records of it have: those that others have too, and its own, of which one holds something.
_SIGNS: dict[str, tuple[set[str], set[str]]] = {
    "r1_reward": ({"question", "answer"}, {"message"}),
    "vl_rewardbench": ({"query"}, {"response", "human_ranking"}),
    "multimodal_rewardbench": (set(), {"Text", "Output1", "Output2", "Better"}),
    "rewardbench2": ({"prompt", "subset"}, {"num_correct", "total_completions"}),
    "rewardbench": ({"prompt", "subset"}, {"chosen_model", "rejected_model"}),
    "pickapic": ({"caption"}, {"jpg_0", "jpg_1", "label_0", "label_1"}),
    "hpdv3": ({"prompt"}, {"path1", "path2"}),
    "editreward_bench": ({"instruction", "dimension"}, {"input_image", "output_images"}),
    "consistency_rank": ({"folder"}, {"ref_image", "comp_images", "rank_images"}),
}
_EITHER = {"prompt", "chosen_reason", "rejected_reason"}


def pair_format_of(record: Mapping[str, Any]) -> str | None:
    """The format of pairs that a record's columns are of; None for none.

    Raises ValueError for columns that VL-RewardBench's lines and MM-RLHF-RewardBench have in common.
    """
    columns = set(record)
    for name, (shared, own) in _SIGNS.items():
        if shared | own <= columns and any(record[column] is not None for column in own):
            return name
    if columns >= _EITHER:
        raise ValueError("has the columns of `vl_rewardbench` and of `mm_rlhf` alike; say which it is (data.format)")
    return None
