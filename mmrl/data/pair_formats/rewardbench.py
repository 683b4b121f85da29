"""RewardBench 1 and 2: answers to texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in
from mmrl.data.pair_formats.columns import BETTER_FIRST, reply_in, set_apart

# Section -> subset -> how many examples it counts as in the section's mean. `math-prm` has 447 and counts as 984. The
# released weights of the two XSTest subsets (250 and 154) are those of one another; these are the records there are.
SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
TIES = "Ties"
_TIED = re.compile(r"(?:ref|tied):(.+)")


def rewardbench(record: Mapping[str, Any]) -> dict[str, Any]:
    """`prompt`, `chosen`, `rejected`, `subset`. The category is the section of the subset (see SECTIONS)."""
    subset = text_in(record, "subset", "rewardbench")
    section = next((name for name, subsets in SECTIONS.items() if subset in subsets), None)
    if section is None:
        raise ValueError(f"`subset` is {subset!r:.60}, which is none of RewardBench's")
    return {
        **set_apart(record),
        "prompt": text_in(record, "prompt", "rewardbench"),
        "candidates": [reply_in(record, column, "rewardbench") for column in ("chosen", "rejected")],
        "shares": BETTER_FIRST,
        "category": section,
    }


def rewardbench2(record: Mapping[str, Any]) -> dict[str, Any]:
    """`prompt`, lists `chosen` and `rejected`, `num_correct`, `subset`, which is the category.

    The right answers, which come first, share the preference. In Ties the id, `ref:N` or `tied:N`, stays, and N is the
    `unit`: a question with one right answer is scored together with its twin that has several.
    """
    form = "rewardbench2"
    answers = {}
    for column in ("chosen", "rejected"):
        given = record.get(column)
        if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
            raise ValueError(f"format {form} needs `{column}`, a list of texts that is not empty")
        answers[column] = given
    right = len(answers["chosen"])
    if record.get("num_correct") not in (None, right):
        raise ValueError(f"`num_correct` is {record['num_correct']!r:.60}, and `chosen` has {right} answers")
    subset = text_in(record, "subset", form)
    return {
        **(_of_ties(record) if subset == TIES else set_apart(record)),
        "prompt": text_in(record, "prompt", form),
        "candidates": [*answers["chosen"], *answers["rejected"]],
        "shares": [1 / right] * right + [0.0] * len(answers["rejected"]),
        "category": subset,
    }


def _of_ties(record: Mapping[str, Any]) -> dict[str, Any]:
    found = _TIED.fullmatch(str(record.get("id")))
    if found is None:
        raise ValueError(f"`id` is {record.get('id')!r:.60}; in Ties it is ref:N or tied:N")
    return {"unit": found[1]}
