"""What a scalar model learns of a record: its rows, and what is known of their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmrl.data.candidates import candidate, confidence_of
from mmrl.data.pairs import pair_of
from mmrl.types import Candidate, Prompt

Rows = Literal["candidates", "steps"]
Reads = Literal["shares", "values"]


@dataclass(frozen=True)
class Scored:
    """A prompt with candidates, or with an answer in steps; one of the two.

    shares, or values: one a candidate (or step), as its preference or the number that its score should be, NaN where
    nothing is known of it.
    """

    prompt: Prompt
    candidates: tuple[Candidate, ...] = ()
    steps: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    margin: float | None = None
    confidence: float | None = None

    @property
    def id(self) -> str:
        return self.prompt.id

    @property
    def pictures(self) -> Prompt:
        """All that it shows, as a prompt whose pictures are looked at."""
        shown = [*(self.prompt.record.get("images") or ()), *(ref for c in self.candidates for ref in c.images)]
        return Prompt(self.id, "", {"images": shown}, self.prompt.root)


def scored(prompt: Prompt, rows: Rows = "candidates", reads: Reads = "shares", unit: bool = False) -> Scored:
    """The record of a prompt: a pair (`reads` shares), or `candidates` or `steps` with `values`.

    unit: values have to be from 0 to 1. Raises ValueError that names the record.
    """
    if reads == "shares":
        pair = pair_of(prompt)
        return Scored(prompt, pair.candidates, shares=pair.shares, margin=pair.margin, confidence=pair.confidence)
    try:
        values = _values(prompt.record.get("values"), unit)
        confidence = confidence_of(prompt.record)
        if rows == "steps":
            steps = _steps(prompt.record.get("steps"), len(values))
            return Scored(prompt, steps=steps, values=values, confidence=confidence)
        candidates = _candidates(prompt.record, len(values))
        return Scored(prompt, candidates, values=values, confidence=confidence)
    except ValueError as error:
        raise ValueError(f"record {prompt.id!r:.60}: {error}") from None


def hard(shares: Sequence[float]) -> tuple[float, ...]:
    """All of the preference to the largest share, in equal parts where several have it."""
    best = max(shares)
    return tuple(float(share == best) / sum(other == best for other in shares) for share in shares)


def _values(given: Any, unit: bool) -> tuple[float, ...]:
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"`values` must be a list of numbers, got {given!r:.60}")
    for number, value in enumerate(given):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"value {number} is {value!r:.60}, expected a number")
        if unit and not 0 <= value <= 1:
            raise ValueError(f"value {number} is {value!r:.60}, objective bce needs numbers from 0 to 1")
    if all(value is None for value in given):
        raise ValueError("`values` tells no number")
    return tuple(math.nan if value is None else float(value) for value in given)


def _steps(given: Any, count: int) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(step, str) and step for step in given):
        raise ValueError(f"`steps` must be a list of texts that are not empty, got {given!r:.60}")
    return tuple(_as_many("steps", given, count))


def _candidates(record: Mapping[str, Any], count: int) -> tuple[Candidate, ...]:
    given = record.get("candidates")
    if given is None and record.get("completion") is not None:
        return tuple(Candidate(one) for one in _as_many("candidates", [record["completion"]], count))
    if not isinstance(given, list | tuple):
        raise ValueError("has `values` of nothing: it needs `candidates`, or one `completion`")
    told = [candidate(one, f"candidate {number}") for number, one in enumerate(_as_many("candidates", given, count))]
    return tuple(Candidate(one["answer"], tuple(one["images"])) for one in told)


def _as_many(name: str, given: Sequence[Any], count: int) -> Sequence[Any]:
    if len(given) != count:
        raise ValueError(f"`values` has {count} numbers for {len(given)} {name}")
    return given
