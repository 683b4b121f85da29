"""The columns of a pair, checked and in one shape: `candidates`, `shares`, `margin`, `confidence`, `category`, `unit`.

A pair as a record: `prompt` or `messages` and `images` ask; `candidates` is a list of {"answer", "images"}, where a
text stands for {"answer": text}; `shares` has a number for each, summing to 1. `chosen` and `rejected` say the same of
two, whose shares are 1 and 0 unless there are others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmrl.data.messages import are_messages, one_answer
from mmrl.data.shown import image_marks, listed, reference
from mmrl.media import IMAGE
from mmrl.pictures import candidate_refs

COLUMNS = ("candidates", "shares", "margin", "confidence", "category", "unit")
_ROUNDED = 1e-3  # how far from 1 the sum of shares may be that were written with few digits
_EXACT = 1e-9
_FEWEST = 2


def is_pair(record: Mapping[str, Any]) -> bool:
    """Whether a record says of `candidates` how they share the preference."""
    return record.get("candidates") is not None and record.get("shares") is not None


def with_candidates(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a pair of a record that has them, or {"candidates", "shares"} of its `chosen` and `rejected`.

    {} for any other, for one whose `candidates` are something else, and for two answers that make no pair, such as two
    that are the same: a record may be read for its question alone; `pair_columns` tells whoever needs the pair.
    Raises ValueError for `candidates` and `shares` that are wrong.
    """
    if is_pair(record):
        return pair_columns(record)
    if record.get("candidates") is not None:
        return {}
    try:
        return pair_columns({key: record.get(key) for key in ("chosen", "rejected", "shares")})
    except ValueError:
        return {}


def as_preference(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"chosen", "rejected"} of a pair of two answers, one of which is preferred; {} for a record that has them, and
    for one that is no pair. Raises ValueError for a pair that has no such two."""
    if not is_pair(record) or None not in (record.get("chosen"), record.get("rejected")):
        return {}
    candidates, shares = record["candidates"], record["shares"]
    if len(candidates) != _FEWEST or shares[0] == shares[1] or candidate_refs(record):
        raise ValueError("has no `chosen` and `rejected`: they are two texts of a pair, one of which is preferred")
    better = int(shares[1] > shares[0])
    return {"chosen": candidates[better]["answer"], "rejected": candidates[1 - better]["answer"]}


def pair_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"candidates", "shares"} of a record in their one shape, and those of the other COLUMNS that it tells.

    Raises ValueError that says what is wrong: no candidates, no label, the same answer twice, shares, a margin or a
    confidence outside of their scale, a picture that is none.
    """
    if record.get("candidates") is None:
        if record.get("chosen") is None or record.get("rejected") is None:
            raise ValueError("is no pair: it needs `candidates` and `shares`, or `chosen` and `rejected`")
        if record["chosen"] == record["rejected"]:
            raise ValueError("`chosen` and `rejected` are the same answer")
        shares = [1.0, 0.0] if record.get("shares") is None else record["shares"]
        record = {**record, "candidates": [record["chosen"], record["rejected"]], "shares": shares}
    candidates = _candidates(record["candidates"])
    shares = _shares(record.get("shares"), len(candidates))
    _refuse_same(candidates, shares)
    made: dict[str, Any] = {"candidates": candidates, "shares": shares}
    if record.get("margin") is not None:
        made["margin"] = _number(record["margin"], "`margin`", math.inf)
    if (sure := confidence_of(record)) is not None:
        made["confidence"] = sure
    for column in ("category", "unit"):
        if record.get(column) is not None:
            made[column] = _word(record[column], column)
    return made


def confidence_of(record: Mapping[str, Any]) -> float | None:
    """The column `confidence`, None without one. Raises ValueError for one that is no number from 0 to 1."""
    given = record.get("confidence")
    return None if given is None else _number(given, "`confidence`", 1.0)


def _candidates(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list | tuple) or len(given) < _FEWEST:
        raise ValueError(f"`candidates` must be a list of two or more, got {given!r:.60}")
    return [candidate(one, f"candidate {number}") for number, one in enumerate(given)]


def _refuse_same(candidates: list[dict[str, Any]], shares: list[float]) -> None:
    """Raise ValueError for two candidates that are the same, and of which one is preferred, or there are no others.

    Two equal ones among several, such as wrong answers of two models, say nothing that is wrong.
    """
    for number, one in enumerate(candidates):
        first = candidates.index(one)
        if first < number and (shares[first] != shares[number] or all(one == other for other in candidates)):
            raise ValueError(f"candidates {first} and {number} are the same")


def candidate(given: Any, name: str) -> dict[str, Any]:
    """{"answer", "images"} of a candidate. Raises ValueError, which names it by `name`, for what is none."""
    told = given if isinstance(given, Mapping) else {"answer": given}
    others = {key for key, value in told.items() if value is not None} - {"answer", "images"}
    if others:
        raise ValueError(f"{name} has {', '.join(sorted(map(str, others)))[:60]}; expected `answer` and `images`")
    answer = told.get("answer")
    if answer is None and not told.get("images"):
        raise ValueError(f"{name} has neither an answer nor a picture")
    if answer is None:
        answer = ""
    elif isinstance(answer, list) and answer and are_messages(answer):
        answer = one_answer(answer, name)
    elif not isinstance(answer, str):
        raise ValueError(f"{name} is {answer!r:.60}, expected a text or messages")
    images = listed(told["images"]) if told.get("images") is not None else []
    refs = [reference(ref, f"{number} of {name}") for number, ref in enumerate(images)]
    marks = image_marks(answer)
    if refs and marks and marks != len(refs):  # without pictures it is a text that speaks of marks
        raise ValueError(f"{IMAGE} stands {marks} times in {name}, and it has {len(refs)} pictures")
    return {"answer": answer, "images": refs}


def _shares(given: Any, count: int) -> list[float]:
    if given is None:
        raise ValueError("has no label: `shares` says which of `candidates` is preferred")
    if not isinstance(given, list | tuple):
        raise ValueError(f"`shares` is {type(given).__name__}, expected a list of numbers")
    if len(given) != count:
        raise ValueError(f"`shares` has {len(given)} numbers for {count} candidates")
    shares = [_number(share, f"share {number}", 1.0) for number, share in enumerate(given)]
    total = math.fsum(shares)
    if abs(total - 1) > _ROUNDED:
        raise ValueError(f"`shares` sum to {total:g}, expected 1")
    return shares if abs(total - 1) <= _EXACT else [share / total for share in shares]


def _number(given: Any, name: str, largest: float) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError(f"{name} is {given!r:.60}, expected a number")
    if not 0 <= given <= largest:
        scale = "no less than 0" if largest == math.inf else f"from 0 to {largest:g}"
        raise ValueError(f"{name} is {given!r:.60}, expected {scale}")
    return float(given)


def _word(given: Any, column: str) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise ValueError(f"`{column}` is {given!r:.60}, expected a text")
    return str(given)
