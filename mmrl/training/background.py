"""Work in a thread while the training goes on, one piece at a time; several processes are done when all are."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PAUSE_S = 0.05
DONE, FAILED = ".done_{}", ".error_{}"


class NotWritten(OSError):
    """Another process could not do its part, or did not come to an end of it; says which and why."""


class Work:
    """A function in a thread of its own."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def join(self, patience: float) -> bool:
        """Whether it is done within so many seconds."""
        self._thread.join(patience)
        return self.is_done

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            self.error = error


@contextmanager
def marked(folder: Path, rank: int) -> Iterator[None]:
    """Around a process's part: a file in the folder tells the main one that it is done, or why it is not."""
    try:
        yield
    except BaseException as error:
        words = " ".join(str(error).split()) or type(error).__name__
        with suppress(OSError):  # a full disk: then the main process hears it where all wait for the work
            (folder / f"{FAILED.format(rank)}.tmp").write_text(words, encoding="utf-8")
            os.rename(folder / f"{FAILED.format(rank)}.tmp", folder / FAILED.format(rank))
        raise
    (folder / DONE.format(rank)).touch()


def wait_for_all(folder: Path, world: int, given_up: Callable[[set[int]], str | None]) -> None:
    """On the main process, until every other one has marked its part; their files are removed.

    given_up: why nobody waits any longer for these processes, or None; asked again and again. Raises NotWritten.
    """
    missing = set(range(1, world))
    while missing:
        for rank in sorted(missing):
            if (failed := folder / FAILED.format(rank)).exists():
                raise NotWritten(f"process {rank}: {failed.read_text(encoding='utf-8')}")
        missing = {rank for rank in missing if not (folder / DONE.format(rank)).exists()}
        if missing and (why := given_up(missing)):
            raise NotWritten(why)
        if missing:
            time.sleep(PAUSE_S)
    for rank in range(1, world):
        (folder / DONE.format(rank)).unlink()
