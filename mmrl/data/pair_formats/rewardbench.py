"""RewardBench 1 and 2: answers to texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in
from mmrl.data.pair_formats.columns import BETTER_FIRST, reply_in, set_apart

_TIES = "Ties"
_TIED = re.compile(r"(?:ref|tied):(.+)")


def rewardbench(record: Mapping[str, Any]) -> dict[str, Any]:
    """`prompt`, `chosen`, `rejected`, `subset`, which is the category."""
    return {
        **set_apart(record),
        "prompt": text_in(record, "prompt", "rewardbench"),
        "candidates": [reply_in(record, column, "rewardbench") for column in ("chosen", "rejected")],
        "shares": BETTER_FIRST,
        "category": text_in(record, "subset", "rewardbench"),
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
        **(_of_ties(record) if subset == _TIES else set_apart(record)),
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
