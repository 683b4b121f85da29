"""Preference pairs: prompts whose records hold two answers, one of them better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmrl.data.prompts import load_prompts
from mmrl.types import Candidate, Pair, Prompt


def load_pairs(source: str | Path, on_bad: str, **reading: Any) -> list[Prompt]:
    """Prompts of a source whose records also have `chosen` and `rejected`, two different answers.

    reading: keywords of `load_prompts`. An answer is a text, or a list of whatever the adapter's `given` takes; an
    empty one is an answer, too: the end of the text, at once.
    Raises ConfigError, or warns and skips, for a bad record as `on_bad` says.
    """
    return load_prompts(str(source), {}, on_bad, columns=("chosen", "rejected"), **reading)


def pair_of(prompt: Prompt) -> Pair:
    """Stand-in until the reader of pairs is there."""
    record = prompt.record
    if record.get("candidates") is None and ("chosen" not in record or "rejected" not in record):
        raise ValueError(f"pair {prompt.id!r:.60}: is no pair: it needs `candidates` and `shares`")
    given = record.get("candidates") or [record["chosen"], record["rejected"]]
    told = [one if isinstance(one, dict) else {"answer": one} for one in given]
    candidates = tuple(Candidate(one.get("answer") or "", tuple(one.get("images") or ())) for one in told)
    shares = record.get("shares") or [1.0, 0.0]
    return Pair(prompt, candidates, tuple(shares), record.get("margin"), record.get("confidence"))
