"""Whether a judge of pairs favours a place: counted over its calls, and said once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence

CALLS = 100  # verdicts before anything is said; a judge without a favourite is then some 0.05 from a half
MOST = 0.8  # share of one place from which on it is said


class Places:
    """What went to the candidate that was shown first. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls, self._first, self._said = 0, 0.0, False

    def seen(self, shares: Sequence[float]) -> None:
        """shares: of the first, one a verdict, from 0 to 1. Warns once of a judge that goes by the place."""
        with self._lock:
            self._calls, self._first = self._calls + len(shares), self._first + sum(shares)
            if self._said or self._calls < CALLS:
                return
            first = self._first / self._calls
            if 1 - MOST < first < MOST:
                return
            self._said = True
        place, share = ("first", first) if first > 0.5 else ("second", 1 - first)
        warnings.warn(
            f"the judge of pairs gives {share:.0%} to what is shown {place}, over {self._calls} verdicts: it goes by "
            "the place, so that in both orders most pairs are ties and in one order they are noise; ask in other "
            "words, or another judge",
            stacklevel=2,
        )
