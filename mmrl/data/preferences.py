"""Preference pairs: prompts whose records hold two answers, one of them better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrl.data.prompts import load_prompts
from mmrl.types import Prompt


def load_preferences(source: str | Path, on_bad: str, **reading: Any) -> Sequence[Prompt]:
    """Prompts of a source whose records also have `chosen` and `rejected`, two different answers.

    A pair of two texts has them too: the preferred one, and the other. reading: keywords of `load_prompts`. An answer
    is a text, or a list of whatever the adapter's `given` takes; an empty one is an answer, too: the end of the text,
    at once.
    Raises ConfigError, or warns and skips, for a bad record as `on_bad` says.
    """
    return load_prompts(str(source), {}, on_bad, columns=("chosen", "rejected"), **reading)
