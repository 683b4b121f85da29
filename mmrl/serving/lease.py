"""Which run may exchange a server's weights: one at a time, for as long as it says that it lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from mmrl.serving.wire import Refused

MOST_S = 600.0  # that a run may ask for at once


class Lease:
    """clock: seconds, from anywhere on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._run = self._title = ""
        self._until, self._renewed = 0.0, 0

    def ask(self, run: str, title: str, seconds: float) -> dict[str, Any]:
        """Take it, or keep it. Where another run holds it: by whom, for how long it would still be, and how often that
        one has said so. title: what the run is called. Raises ValueError for what is no such request."""
        if not (run and isinstance(run, str) and isinstance(title, str)):
            raise ValueError("a lease is asked for with `run` and `title`")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MOST_S:
            raise ValueError(f"seconds of a lease: above 0, at most {MOST_S:g}")
        with self._lock:
            if self._other(run):
                left = self._until - self._clock()
                return {"held": False, "by": self._title, "left": left, "renewed": self._renewed}
            self._renewed = self._renewed + 1 if self._run == run else 0
            self._run, self._title, self._until = run, title, self._clock() + seconds
            return {"held": True}

    def release(self, run: str) -> None:
        """The run has ended; of another one nothing changes."""
        with self._lock:
            if self._run == run:
                self._run, self._until = "", 0.0

    def allow(self, run: str) -> None:
        """Raise Refused (423) where another run than this one holds it."""
        with self._lock:
            if self._other(run):
                raise Refused(423, f"{self._title} holds this server, and alone may change what it does")

    def _other(self, run: str) -> bool:
        return bool(self._run) and self._run != run and self._clock() < self._until
