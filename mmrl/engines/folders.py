"""Folders of weights on their way to an engine, which leave nothing behind: not even those of a run that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import IO

PREFIX, LOCK = "mmrl-vllm-", ".lock"


class WeightsFolder:
    """A folder of this engine alone inside of `parent` (None: the temporary folder), made when it is first needed.

    It is locked for as long as its process lives. Those of processes that are gone are removed before one is made.
    """

    def __init__(self, parent: str | Path | None = None) -> None:
        self._private = parent is None
        self._parent = Path(tempfile.gettempdir() if parent is None else parent)
        self._own: Path | None = None
        self._lock: IO[bytes] | None = None

    @property
    def path(self) -> Path:
        """The folder."""
        if self._own is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._parent)
            own = self._parent / f"{PREFIX}{uuid.uuid4().hex[:12]}"
            made = own.with_name(f".{own.name}")  # nobody takes it for a leftover before it is locked
            made.mkdir(mode=0o700 if self._private else 0o777)
            self._lock = open(made / LOCK, "wb")  # noqa: SIM115 - held as long as the folder is there
            with contextlib.suppress(OSError):  # a file system without locks: the folder is never taken for a leftover
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made.rename(own)
            self._own = own
        return self._own

    def empty(self, name: str) -> Path:
        """The folder `name` inside of it, with nothing in it."""
        folder = self.path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def keep_only(self, kept: Path) -> None:
        """Remove what else is in it."""
        for folder in self.path.iterdir():
            if folder.is_dir() and folder != kept:
                shutil.rmtree(folder)

    def close(self) -> None:
        """Remove it."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._own = self._lock = None


def remove_leftovers(parent: Path) -> None:
    """Remove the folders in `parent` whose process is gone; those of others that are in use stay."""
    for folder in parent.glob(f"{PREFIX}*"):
        # Not ours to open or remove, in use, or on a file system without locks: it stays.
        with contextlib.suppress(OSError), open(folder / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
