"""A limit on how long a call of a reward may take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

R = TypeVar("R")


class RewardTimeout(Exception):
    """A call of a reward took longer than its `timeout`; the message says so."""


class Limited:
    """`call`, given up after `seconds` with a RewardTimeout.

    Python cannot stop a thread: a call that was given up runs on by itself, and still counts as one of the `at_once`
    that the reward allows. The next call waits for it as long as the limit; those after that one fail at once, until it
    ends.
    """

    def __init__(self, call: Callable[[Any], Any], seconds: float, at_once: int = 1) -> None:
        self.call, self.seconds = call, seconds
        self._free = threading.Semaphore(at_once)
        self._blocked = False

    def __call__(self, argument: Any, read: Callable[[Any], list[R]] = list) -> list[R]:
        """`read` of what the call returned, inside the limit as well, for scores may be made while they are read."""
        if not self._free.acquire(timeout=0 if self._blocked else self.seconds):
            self._blocked = True
            raise RewardTimeout(f"not called, as a call that was given up after {self.seconds:g} s still runs")
        self._blocked = False
        answer: Future[list[R]] = Future()

        def work() -> None:
            try:
                answer.set_result(read(self.call(argument)))
            except BaseException as error:
                answer.set_exception(error)
            finally:
                self._free.release()

        # A daemon, so that a call that never ends does not keep the process.
        thread = threading.Thread(target=work, daemon=True, name="limited reward")
        thread.start()
        thread.join(self.seconds)
        if not answer.done():
            raise RewardTimeout(f"gave no scores in {self.seconds:g} s, its `timeout`")
        return answer.result()
