"""metrics.jsonl: one JSON object a step, appended whole, so that a killed run keeps its history."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmrl.reporting.disk import sync, writing
from mmrl.reporting.files import dumps, write_atomic


class MetricsWriter:
    """Appends rows to a JSONL file. Steps count over the whole run, not per stage.

    A line that a killed process left half written is removed on opening, one that meets a full disk at once.
    Everything that writes raises WriteError where the disk does not take it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._opened()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one step. NaN and infinities become null. Raises ValueError without an integer `step`."""
        _step_of(row, "row to write")
        line = (dumps(row) + "\n").encode("ascii")
        with writing(self.path):
            whole = os.fstat(self._file).st_size
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                os.ftruncate(self._file, whole)
                raise

    def truncate_after(self, step: int) -> None:
        """Forget every row past `step`: a resume that restarts from it would write them a second time."""
        self.close()
        kept = [line for row, line in _parse(self.path) if _step_of(row, str(self.path)) <= step]
        write_atomic(self.path, "".join(line + "\n" for line in kept))
        with writing(self.path):
            self._file = self._opened()

    def sync(self) -> None:
        """Have all rows on the disk when this returns, for a checkpoint that counts on them."""
        with writing(self.path):
            sync(self.path)
            sync(self.path.parent)

    def close(self) -> None:
        """May be called twice."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _opened(self) -> int:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _mend_tail(self.path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every row, in file order; [] without a file. A half-written last line is left out.

    Raises ValueError with the line's number when another line is not a JSON object.
    """
    return [row for row, _ in _parse(Path(path))]


def lines_of(data: bytes) -> Iterator[tuple[int, str, Any, str]]:
    """(number, the line, what it holds, "") of each line that is not empty, or why it is no JSON in the last place.

    A last line without a newline that is no JSON was being written when the process died: its reason is "cut".
    """
    lines = data.split(b"\n")
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        text, value, problem = "", None, ""
        try:
            text = raw.decode("utf-8")
            value = json.loads(text)
        except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, and numbers of 5,000 digits
            problem = "cut" if number == len(lines) else f"not JSON ({str(error)[:100]})"
        yield number, text, value, problem


def _parse(path: Path) -> list[tuple[dict[str, Any], str]]:
    if not path.exists():
        return []
    rows = []
    for number, line, row, problem in lines_of(path.read_bytes()):
        if problem == "cut":
            break
        if problem:
            raise ValueError(f"{path}:{number}: {problem}; remove the line to go on")
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append((row, line))
    return rows


def _step_of(row: Mapping[str, Any], where: str) -> int:
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise ValueError(f"{where}: a metrics row needs an integer 'step', found {str(step)[:40]!r}")
    return step


def _mend_tail(path: Path, descriptor: int) -> None:
    """Leave whole lines: a last one without its newline gets it, or goes where it is cut."""
    data = path.read_bytes()
    tail = data.rpartition(b"\n")[2]
    if not tail:
        return
    try:
        json.loads(tail)
    except (ValueError, RecursionError):
        os.ftruncate(descriptor, len(data) - len(tail))
    else:
        os.write(descriptor, b"\n")
