"""Threads that a hanging reward may be left behind in."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

A = TypeVar("A")
R = TypeVar("R")
_Jobs = SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None]


class Threads:
    """Up to `most` threads that do jobs in the order of submission.

    They are daemons: when Python ends it waits for those of concurrent.futures, for ever where a job hangs, but not for
    these. Whatever a job raises, SystemExit and KeyboardInterrupt included, is what its future raises.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._jobs: _Jobs = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)  # threads that wait for a job: none is started beside them
        self._closed = False
        weakref.finalize(self, _end, self._jobs, self._threads)

    def submit(self, call: Callable[..., R], *arguments: Any) -> Future[R]:
        """Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError(f"the threads of this {self._name} were closed")
        future: Future[R] = Future()
        self._jobs.put((future, call, arguments))
        if len(self._threads) < self._most and not self._idle.acquire(blocking=False):
            thread = threading.Thread(target=_work, args=(self._jobs, self._idle), daemon=True, name=self._name)
            self._threads.append(thread)
            thread.start()
        return future

    def map(self, call: Callable[[A], R], items: Iterable[A]) -> list[R]:
        """call(item) of each, in order, once all are there. Raises what the first of those that failed did."""
        return [future.result() for future in [self.submit(call, item) for item in items]]

    def close(self) -> None:
        """Drop what has not started; what runs is not waited for."""
        self._closed = True
        try:
            while (job := self._jobs.get_nowait()) is not None:
                job[0].cancel()
        except Empty:
            pass
        _end(self._jobs, self._threads)


def _end(jobs: _Jobs, threads: list[threading.Thread]) -> None:
    for _ in threads:
        jobs.put(None)


def _work(jobs: _Jobs, idle: threading.Semaphore) -> None:
    while _did_one(jobs, idle):
        pass


def _did_one(jobs: _Jobs, idle: threading.Semaphore) -> bool:
    # In a function of its own, so that a thread that waits for a job holds nothing of the last one.
    try:
        job = jobs.get_nowait()
    except Empty:
        idle.release()
        job = jobs.get()
    if job is None:
        return False
    future, call, arguments = job
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)
    return True
