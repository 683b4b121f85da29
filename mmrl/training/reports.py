"""The report of a run while it goes on, and when it ends before its last step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from mmrl.reporting.ending import forget_ending, write_ending
from mmrl.reporting.report import write_report
from mmrl.reporting.summary import forget_summary
from mmrl.training.notes import reason
from mmrl.training.stopping import Stopped

SHARE = 0.01  # of a run's time


class Reports:
    """Writes report.html of one run, from where it begins or goes on; only one of its processes has such a thing.

    One that cannot be written ends no run: the folder is whole, and `mmrl report` writes it anew.
    clock: seconds, for tests.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.clock = folder, clock
        self._began, self._spent, self._last = clock(), 0.0, 0.0
        forget_ending(folder)
        forget_summary(folder)

    def going_on(self) -> None:
        """Write it, unless one as slow as the last would bring them all together above SHARE of the time so far."""
        now = self.clock()
        if self._spent + self._last > SHARE * (now - self._began):
            return
        _tried(partial(write_report, self.folder))
        self._last = self.clock() - now
        self._spent += self._last

    def ended(self, error: BaseException, step: int) -> None:
        """Say that the run ended early, and why. step: the last one that is done."""
        how: Literal["stopped", "failed"]
        if isinstance(error, Stopped):
            how, why = "stopped", "It was asked to stop and has saved itself: go on with --resume."
        elif isinstance(error, KeyboardInterrupt):
            how, why = "stopped", "It was ended by Ctrl-C without saving: --resume goes on from its last checkpoint."
        else:
            how, why = "failed", reason(error)
        _tried(partial(write_ending, self.folder, how, step, why))
        if not isinstance(error, KeyboardInterrupt):  # which wants out at once
            _tried(partial(write_report, self.folder))


def report_of(folder: Path) -> None:
    """The report of a run that came to its last step. Raises WriteError."""
    forget_ending(folder)
    write_report(folder)


def _tried(write: Callable[[], object]) -> None:
    try:
        write()
    except Exception as error:  # of whatever draws: a run is worth more than its picture
        print(f"warning: the run goes without its report: {reason(error)}", flush=True)
