"""metrics.jsonl: one JSON object a step, appended and flushed, so that a killed run keeps its history."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.reporting.files import dumps, write_atomic


class MetricsWriter:
    """Appends rows to a JSONL file. Steps count over the whole run, not per stage.

    A line that a killed process left half written is removed on opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _mend_tail(self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one step. NaN and infinities become null. Raises ValueError without an integer `step`."""
        _step_of(row, "row to write")
        self._file.write(dumps(row) + "\n")
        self._file.flush()

    def truncate_after(self, step: int) -> None:
        """Forget every row past `step`: a resume that restarts from it would write them a second time."""
        self._file.close()
        kept = [line for row, line in _parse(self.path) if _step_of(row, str(self.path)) <= step]
        write_atomic(self.path, "".join(line + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every row, in file order; [] without a file. A half-written last line is left out.

    Raises ValueError with the line's number when another line is not a JSON object.
    """
    return [row for row, _ in _parse(Path(path))]


def _parse(path: Path) -> list[tuple[dict[str, Any], str]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # no newline after it: the process died while writing this line
                break
            raise ValueError(f"{path}:{number}: not JSON ({error}); remove the line to go on") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append((row, line))
    return rows


def _step_of(row: Mapping[str, Any], where: str) -> int:
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise ValueError(f"{where}: a metrics row needs an integer 'step', found {step!r}")
    return step


def _mend_tail(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+") as file:
        tail = file.read().rpartition(b"\n")[2]
        if not tail:
            return
        try:
            json.loads(tail)
        except ValueError:
            file.seek(-len(tail), os.SEEK_END)
            file.truncate()
        else:  # whole but for its newline
            file.write(b"\n")
