"""Where the processes of a run are: a small file of each in the run's folder, locked for as long as its process lives.

A process that is killed leaves no note (see notes). What it was doing stands in its file, and its lock is free, which
the system sees to; so the others can say which one is gone, whatever sends their tensors, and end though they wait in
the middle of a model.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

NAME = re.compile(r"\.at_([0-9]+)")
SIZE = 512  # bytes of a file: always the same ones, so that a full disk does not matter once it is there
# How often a process looks whether others are there, and at how many files of them at once.
LOOK_S, AT_ONCE = 1.0, 64
# How long a process that knows that another one is gone may take to end by itself, before it is ended.
GRACE_S = 20.0


@dataclass(frozen=True)
class Place:
    """Where a process is. step: of the run, from 1; 0 before the first. waits: for the others. lost: it has found that
    others are gone. left: its work is done."""

    host: str
    pid: int
    step: int = 0
    doing: str = "loading"
    waits: bool = False
    lost: bool = False
    left: bool = False

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, last at step {self.step}, {self.doing}"


class Presence:
    """This process's file, and a look at those of the others. Until `open` it says and sees nothing.

    rank, world: which of how many processes this is.
    """

    def __init__(self, folder: str | Path, rank: int, world: int) -> None:
        self.folder, self.rank, self.world = Path(folder), rank, world
        self.place = Place(socket.gethostname(), os.getpid())
        self._file: int | None = None
        self._seen: set[int] = set()  # processes whose locks were seen: not on every disk do others see them
        self._over = threading.Event()
        self._alone = threading.RLock()
        self._next = 0

    def open(
        self, meet: Callable[[], None], gone: Callable[[], None], failed: Callable[[], bool] = lambda: False
    ) -> None:
        """From now on others see this process. Every process calls. meet: a barrier.

        gone: called in a thread of its own where another one is gone, or has `failed`, and this process has not ended
        GRACE_S later.
        """
        if self.world == 1:
            return
        with suppress(OSError):  # without a place to write it is not seen, and what happens to it is told without it
            self._file = os.open(self.folder / f".at_{self.rank}", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self._write()
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fsync(self._file)
        meet()
        self._over.clear()
        self.ended(self._watched)
        threading.Thread(target=self._watch, args=(gone, failed), name="presence", daemon=True).start()

    def close(self, well: bool) -> None:
        """This process's work is done: that it goes means nothing. well: and nobody will ask where it was."""
        self._over.set()
        self.at(left=True)
        if self._file is not None:
            os.close(self._file)
            self._file = None
            if well:
                (self.folder / f".at_{self.rank}").unlink(missing_ok=True)

    def at(self, **where: Any) -> None:
        """What this process is at now: fields of Place."""
        self.place = replace(self.place, **where)
        self._write()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Inside, it does this; behind it, what it did before."""
        before = self.place.doing
        self.at(doing=what)
        yield
        self.at(doing=before)  # where it fails, this is where it failed

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Inside, it needs no others, and is not ended because they are gone."""
        with self._alone:
            yield

    # ---------------------------------------------------------------- the others

    def ended(self, ranks: Callable[[], list[int]] | None = None) -> dict[int, Place]:
        """Processes whose locks were there and are not any more, and who had not said that they are done; by rank.

        ranks: at whom to look; None: at all.
        """
        found = {}
        for rank in self._others() if ranks is None else ranks():
            known = self._read(rank)
            if known is None:
                continue
            place, locked = known
            if locked:
                self._seen.add(rank)
            elif rank in self._seen and not place.left:
                found[rank] = place
        return found

    def missing(self) -> tuple[dict[int, Place], bool | None]:
        """(processes for whom others wait, by rank; whether they have ended, None: not known): those that have, or else
        those that neither wait nor have found others gone; {} where nobody is known to be."""
        ended = self.ended()
        if ended:
            return ended, True
        places = {rank: found[0] for rank in self._others() if (found := self._read(rank))}
        late = {rank: place for rank, place in places.items() if not (place.waits or place.lost or place.left)}
        return late, False if self._seen.issuperset(late) else None

    def _others(self) -> list[int]:
        if self._file is None:
            return []
        return [rank for rank in range(self.world) if rank != self.rank]

    def _watched(self) -> list[int]:
        """Whom this process looks at: the first one at all, some at a time, and the others at the first."""
        if self.rank or self._file is None:
            return [0] if self._file is not None else []
        others = self._others()
        start, self._next = self._next, (self._next + AT_ONCE) % len(others)
        return (others + others)[start : start + min(AT_ONCE, len(others))]

    def _watch(self, gone: Callable[[], None], failed: Callable[[], bool]) -> None:
        while not self._over.wait(LOOK_S):
            if self.ended(self._watched) or failed():
                if self._over.wait(GRACE_S):
                    return
                with self._alone:
                    if not self._over.is_set():
                        gone()
                return

    def _read(self, rank: int) -> tuple[Place, bool] | None:
        """(where a process is, whether its file is locked), or None where that is not known."""
        try:
            file = os.open(self.folder / f".at_{rank}", os.O_RDONLY)
        except OSError:
            return None
        try:
            locked = _is_locked(file)  # first: who gives its lock up has said before that it is done
            return Place(**json.loads(os.pread(file, SIZE, 0))), locked
        except (OSError, ValueError, TypeError):
            return None
        finally:
            os.close(file)

    def _write(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, json.dumps(asdict(self.place)).encode("ascii").ljust(SIZE), 0)


def clear_places(folder: Path) -> None:
    """Remove the files of an earlier start."""
    for path in folder.glob(".at_*"):
        if NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _is_locked(file: int) -> bool:
    """Whether somebody holds the lock. Those who ask for a shared one do not refuse it one another."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a disk without locks: where it is can be read all the same
        return False
    return False
