"""Which stored steps are kept: a run of any length leaves about as many."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmrl.reporting.disk import writing


def kept_stride(step: int, every: int, most: int) -> int:
    """Steps between those that are kept when `step` is stored: `every` times the smallest power of 2 with which at most
    `most` are, the first and the newest among them. It depends on nothing else, so that a run that was stopped and goes
    on keeps the same.
    """
    stride = every
    while step // stride + 2 > most:
        stride *= 2
    return stride


def thin_out(run_dir: Path, kind: str, step: int, every: int, most: int) -> None:
    """Remove samples/<kind>_XXXXXX of steps before `step` that are not kept: all but the first and the multiples of
    kept_stride. Nothing is removed while there is room for all. Raises WriteError."""
    stride = kept_stride(step, every, most)
    if stride == every:
        return
    folder = Path(run_dir) / "samples"
    numbers = {path: path.name.removeprefix(f"{kind}_") for path in folder.glob(f"{kind}_*")}
    stored = sorted((int(number), path) for path, number in numbers.items() if number.isdecimal())
    for number, path in stored[1:]:
        if number < step and number % stride:
            with writing(path):
                hidden = path.with_name(f".{path.name}.old")
                shutil.rmtree(hidden, ignore_errors=True)
                path.rename(hidden)  # whole until it is gone
                shutil.rmtree(hidden)
