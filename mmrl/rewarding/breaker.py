"""Leaving alone for a while what failed, so that nobody waits for it again and again: a circuit breaker."""

from __future__ import annotations

import threading
import warnings
from time import monotonic, strftime

_LONGEST_REST = 600.0


class Breaker:
    """Open after a failure, for `rest` seconds, twice as long after each further one, up to 600. May be used from
    several threads.

    Once the time is over one caller may try, while the others are still told to leave it; a success closes it.
    """

    def __init__(self, rest: float) -> None:
        self.rest = rest
        self._lock = threading.Lock()
        self._failures, self._until, self._reason, self._trying = 0, 0.0, "", False

    def why(self) -> str:
        """Why nothing is to be tried now; "" for the caller that may, who then has to tell how it went."""
        with self._lock:
            if not self._failures:
                return ""
            left = self._until - monotonic()
            if left > 0 or self._trying:
                return f"left alone for {max(left, 0):.0f} s more, since {self._reason}"
            self._trying = True
            return ""

    @property
    def trying(self) -> bool:
        """Whether it failed before: then one try is enough to know."""
        return self._failures > 0

    def failed(self, reason: str) -> float | None:
        """Seconds that it now rests; None where another caller's failure had opened it already."""
        with self._lock:
            if self._failures and not self._trying:
                return None
            # Doubled no more often than it takes from a nanosecond to the longest: 2.0**1024 is no number.
            pause = min(max(_LONGEST_REST, self.rest), self.rest * 2 ** min(self._failures, 40))
            self._failures, self._trying, self._reason = self._failures + 1, False, reason
            self._until = monotonic() + pause
            return pause

    def tell(self, reason: str, known: bool) -> None:
        """`failed`, and a warning, once until it is `answered`. known: whether it was `trying` when it was asked."""
        pause = self.failed(reason)
        if pause is not None and not known:
            clock = strftime("%H:%M:%S")
            warnings.warn(f"{clock}: {reason}; left alone for {pause:g} s, then tried again", stacklevel=3)

    def answered(self) -> None:
        with self._lock:
            self._failures, self._trying = 0, False
