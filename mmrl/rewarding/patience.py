"""How long a server that is away is waited for: from the first failure after the last answer, over all requests."""

from __future__ import annotations

import threading
import time
import warnings


class Patience:
    """seconds: after the first failure, during which requests are tried again. May be used from several threads."""

    def __init__(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f"patience={seconds} must be 0 or more seconds")
        self.seconds = seconds
        self._lock = threading.Lock()
        self._since: float | None = None

    def failed(self, reason: str, tell: bool = True) -> None:
        """A request failed: the clock starts, unless it runs; that is said once. tell: whether it is worth saying."""
        with self._lock:
            first, self._since = self._since is None, self._since or time.monotonic()
        if first and tell and self.seconds:
            clock = time.strftime("%H:%M:%S")
            warnings.warn(f"{clock}: {reason}; trying again for up to {self.seconds:g} s", stacklevel=3)

    def answered(self) -> None:
        """A server answered: the clock stops."""
        with self._lock:
            self._since = None

    @property
    def lasts(self) -> bool:
        since = self._since
        return (0.0 if since is None else time.monotonic() - since) < self.seconds
