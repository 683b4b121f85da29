"""Asking a run to stop: by a signal, or by a caller's function, at the points where it can be cut."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmrl.training.processes import LostProcess, Processes

# A scheduler sends its signal to a launcher and to its children, and a launcher forwards its own: the same wish twice.
SAME_WISH_S = 2.0
# How long a run that was asked to stop waits for rewards that are under way.
PATIENCE_S = 5.0
# How long one of several processes that was asked to stop waits for the others, which may be in a rollout, to save with
# them; torchrun kills what is left 30 seconds after its SIGTERM.
GRACE_S = 20.0


ASKED = {
    signal.SIGINT: b"\nstopping: the run saves itself as soon as it can; Ctrl-C again ends it without saving\n",
    signal.SIGTERM: b"\nstopping: the run saves itself as soon as it can\n",
}


class StopHere(Exception):
    """Raised at a point of a run that was asked to stop; the loop saves that very point."""


class LeftAlone(LostProcess):
    """One of several processes was asked to stop, and the others did not come; it cannot save alone."""


class Stopped(Exception):
    """The run was asked to stop and has saved itself; `checkpoint` is where it will go on."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"stopped and saved in {checkpoint}; go on with --resume")
        self.checkpoint = checkpoint


class Stops:
    """Whether the run was asked to stop.

    should_stop: a caller's own wish, asked at every point ("rollout", "micro", "update",
    "evaluation", "step").
    """

    def __init__(self, processes: Processes, should_stop: Callable[[str], bool] | None = None) -> None:
        self.processes = processes
        self._should_stop = should_stop or (lambda point: False)
        self.may_cut: Callable[[], bool] = lambda: True  # set by the loop: whether a resume could go on from here
        self.asked_at: float | None = None  # time.monotonic() of the first signal

    @property
    def asked(self) -> bool:
        """Whether a signal has come; also true between two points."""
        return self.asked_at is not None

    @property
    def asked_long(self) -> bool:
        """Whether this process was asked to stop and has waited long enough for what it is doing."""
        return self.asked_at is not None and time.monotonic() - self.asked_at > PATIENCE_S

    def waited_long(self) -> bool:
        """`asked_long` of a single process. One of several cannot leave alone: the others would wait for it."""
        return self.processes.world == 1 and self.asked_long

    def refuse_to_wait(self) -> None:
        """Asked while this process waits for others. Raises LeftAlone where it was asked to stop a while ago."""
        if self.asked_at is not None and time.monotonic() - self.asked_at > GRACE_S:
            raise LeftAlone(
                f"process {self.processes.rank} was asked to stop and waited {GRACE_S:g} seconds for the others: it "
                "ends without saving, as it cannot alone; the last checkpoint stands: go on with --resume"
            )

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask for a stop. More of SIGTERM change nothing; Ctrl-C again, later, ends at once."""
        if threading.current_thread() is not threading.main_thread():  # the caller owns the signals
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        self.processes.while_waiting = self.refuse_to_wait
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python

    def _ask(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.asked_at is None:
            self.asked_at = now
            if self.processes.is_main:
                os.write(2, ASKED[signal.Signals(number)])  # a handler may not use what it may have interrupted
        elif number == signal.SIGINT and now - self.asked_at > SAME_WISH_S:
            raise KeyboardInterrupt
        self.processes.notes.refuse()  # a launcher ends the others where one has failed: there is nothing to wait for

    def point(self, name: str) -> None:
        """A place where the run can be cut. Raises StopHere, on every process, where one was asked to stop.

        Inside an update only a single process can stop, as processes run different numbers of micro-batches.
        """
        if (name == "micro" and self.processes.world > 1) or not self.may_cut():
            return
        wanted = self._should_stop(name) or self.asked
        if wanted if name == "micro" else self.processes.any(wanted):
            raise StopHere
