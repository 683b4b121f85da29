"""Records of given answers of which one is preferred."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mmrl.config import ConfigError
from mmrl.data.records import load_prompts
from mmrl.types import Prompt


def load_pairs(source: str | Path, on_bad: str, **reading: Any) -> list[Prompt]:
    """Prompts of a .jsonl file whose records also have `chosen` and `rejected`, two different answers.

    reading: keywords of `load_prompts`. An answer is a string, or a list of whatever the adapter's `given` takes.
    Raises ConfigError, or warns and skips, for a bad record as `on_bad` says.
    """
    good = []
    for prompt in load_prompts(str(source), {}, on_bad, columns=("chosen", "rejected"), **reading):
        problem = _problem(prompt.record["chosen"], prompt.record["rejected"])
        if problem and on_bad == "stop":
            raise ConfigError(f"{source}: record {prompt.id!r}: {problem}; mend it or set data.on_bad_record: skip")
        if problem:
            warnings.warn(f"{source}: record {prompt.id!r}: {problem}; skipped", stacklevel=2)
        else:
            good.append(prompt)
    if not good:
        raise ConfigError(f"{source} holds no usable pair")
    return good


def _problem(chosen: Any, rejected: Any) -> str:
    if not isinstance(chosen, str | list) or not isinstance(rejected, str | list):
        return "`chosen` and `rejected` must be texts"  # empty ones are answers too: the end of the text, at once
    return "`chosen` and `rejected` are the same answer" if chosen == rejected else ""
