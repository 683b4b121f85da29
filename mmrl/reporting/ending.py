"""ended.json: that a run ended before its last step, and why; a run that goes on has none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmrl.reporting.disk import writing
from mmrl.reporting.files import dumps, write_atomic

NAME = "ended.json"
MOST_WHY = 2_000


def write_ending(run_dir: Path, how: Literal["stopped", "failed"], step: int, why: str) -> Path:
    """Write ended.json and return its path. step: the last one that is done. Raises WriteError."""
    path = Path(run_dir) / NAME
    write_atomic(path, dumps({"how": how, "step": step, "why": why[:MOST_WHY]}, indent=2) + "\n")
    return path


def forget_ending(run_dir: Path) -> None:
    """The run goes on, or has come to its last step. Raises WriteError."""
    path = Path(run_dir) / NAME
    with writing(path):
        path.unlink(missing_ok=True)
