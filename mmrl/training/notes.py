"""Why a process of a run failed: a note in the run's folder, which the others read instead of waiting for it."""

from __future__ import annotations

import os
import re
import time
import traceback
from pathlib import Path
from typing import TypeVar

NAME = re.compile(r"\.failed_([0-9]+)")
# A shared disk may show a note a little later than the connection to its writer breaks.
LAG_S = 1.0
LONGEST = 2000  # characters of a reason
_TOLD = "told_by_another_process"


Error = TypeVar("Error", bound=BaseException)


class Failed(RuntimeError):
    """Another process of the run failed; says which and why."""


class Notes:
    """The notes of a run's processes. Until `open`, none is written or read: what lies there is another start's.

    rank, world: which of how many processes this is.
    """

    def __init__(self, folder: str | Path, rank: int, world: int) -> None:
        self.folder, self.rank, self.world = Path(folder), rank, world
        self.opened = False

    def open(self) -> None:
        """From now on notes are this start's."""
        self.opened = self.world > 1

    def write(self, error: BaseException) -> None:
        """Leave this process's reason, its traceback below, for the others; the main process's own error is told
        by itself."""
        if not self.opened:
            return
        path = self.folder / f".failed_{self.rank}"
        building = path.with_name(f"{path.name}.tmp")
        try:
            building.write_text(f"{reason(error)}\n\n{''.join(traceback.format_exception(error))}", encoding="utf-8")
            os.replace(building, path)
        except OSError:  # a full disk: then this process tells it itself
            return
        if self.rank:
            told(error)

    def read(self) -> dict[int, str]:
        """Reasons by rank, of the other processes that failed."""
        found = {}
        for rank, path in sorted(_paths(self.folder).items()) if self.opened else ():
            if rank != self.rank:
                with path.open(encoding="utf-8", errors="replace") as file:
                    found[rank] = file.readline().strip()
        return found

    def refuse(self, patience: float = 0.0) -> None:
        """Raise Failed with what others wrote; look for `patience` seconds where there is nothing yet."""
        until = time.monotonic() + patience
        while not (found := self.read()) and time.monotonic() < until:
            time.sleep(0.05)
        if found:
            # Processes that came to the same end say the same.
            by_reason: dict[str, list[str]] = {}
            for rank, reason in found.items():
                by_reason.setdefault(reason, []).append(str(rank))
            reasons = "; ".join(f"process {', '.join(who)} failed: {reason}" for reason, who in by_reason.items())
            where = self.folder / f".failed_{next(iter(found))}"
            error = Failed(f"{reasons} (its traceback is in {where}); the last checkpoint stands: go on with --resume")
            raise told(error) if self.rank else error  # the main process reads them, too, or is one that failed


def clear_notes(folder: Path) -> None:
    """Remove the notes of an earlier start."""
    for path in _paths(folder).values():
        path.unlink(missing_ok=True)


def told(error: Error) -> Error:
    """The error, marked as one that the main process tells."""
    setattr(error, _TOLD, True)
    return error


def is_told(error: BaseException) -> bool:
    """Whether the main process says what this error is about, so that this one can end without a word."""
    return bool(getattr(error, _TOLD, False))


def _paths(folder: Path) -> dict[int, Path]:
    """Notes by rank."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    return {int(match[1]): folder / name for name in names if (match := NAME.fullmatch(name))}


def reason(error: BaseException) -> str:
    """Why an error ended a run, on one line; with the place, where the message was not made for users."""
    words = " ".join(str(error).split())
    if type(error).__module__.startswith("mmrl."):
        return words[:LONGEST]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return (f"{type(error).__name__}: {words}" if words else type(error).__name__)[:LONGEST] + where
