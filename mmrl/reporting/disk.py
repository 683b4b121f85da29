"""Writing to disks that may be full, read-only or forbidden: one error, which says what to do; and syncing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM)
_RESUME = " (a run: with --resume)"
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what some file systems answer for folders


class WriteError(RuntimeError):
    """A file of a run's folder that could not be written: which one, how much room is free, what to do.

    errno: the system's number of the fault, or None. The OSError itself is the cause.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around everything that writes `path` or below it: an OSError leaves as WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(_explained(error, Path(path)), error.errno) from error


def sync(path: Path) -> None:
    """Have a file or a folder (its list of names, not what is in it) on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path) -> str:
    free = _free(path)
    room = f" ({free / 1e6:,.0f} MB are free)" if free is not None else ""
    if error.errno in FULL:
        return f"cannot write {path}: the disk or its quota is full{room}; free some space and go on{_RESUME}"
    if error.errno == errno.EROFS:
        return f"cannot write {path}: its file system is read-only{room}; mount it writable, or choose another folder"
    if error.errno in FORBIDDEN:
        return f"cannot write {path}: no permission{room}; allow it to this user, or choose another folder"
    said = error.strerror or str(error) or type(error).__name__
    return f"cannot write {path}: {said[:200]}{room}; mend it and go on{_RESUME}"


def _free(path: Path) -> int | None:
    """Bytes that are free where `path` is or would be; None where nobody knows."""
    try:
        place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        return shutil.disk_usage(place).free
    except (OSError, StopIteration):
        return None
