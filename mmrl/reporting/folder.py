"""Reading a run's folder that may come from someone else: only plain files that lie in it, and are not too large.

A link that stays in the folder is followed (checkpoints/latest is one), a link that leads out of it never is.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_BYTES = 512_000_000
MOST_DEPTH = 64  # lists and objects inside one another
MOST_NUMBER = 1e100  # larger ones are in no run, and arithmetic of pictures cannot hold them


class Unreadable(ValueError):
    """A file of a run's folder that is not read; says which and why."""


class RunFolder:
    """A folder and what may be read of it. Names are relative to it, with `/`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve()

    def has(self, name: str) -> bool:
        """Whether anything has that name, readable or not."""
        try:
            (self.root / name).lstat()
        except (OSError, ValueError):
            return False
        return True

    def file(self, name: str, most_bytes: int = MOST_BYTES) -> Path:
        """The path of a plain file, links resolved. Raises Unreadable."""
        if name.startswith("/") or ".." in name.split("/"):
            raise Unreadable(f"{_short(name)} is no name of a file in the run's folder")
        try:
            path = (self.root / name).resolve()
            inside = path.is_relative_to(self.root)
            status = path.stat() if inside else None
        except FileNotFoundError:
            raise Unreadable(f"{_short(name)} is missing") from None
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, links in a circle
            raise Unreadable(f"{_short(name)} cannot be opened ({_why(error)})") from None
        if status is None:
            raise Unreadable(f"{_short(name)} lies outside of the run's folder and is not followed")
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"{_short(name)} is no plain file")
        if status.st_size > most_bytes:
            size, most = f"{status.st_size / 1e6:,.1f}", f"{most_bytes / 1e6:,.1f}"
            raise Unreadable(f"{_short(name)} is too large to show: {size} MB, and {most} MB are read at most")
        return path

    def bytes(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        """What a file holds. Raises Unreadable."""
        path = self.file(name, most_bytes)
        try:
            return path.read_bytes()
        except OSError as error:
            raise Unreadable(f"{_short(name)} cannot be read ({_why(error)})") from None

    def text(self, name: str, most_bytes: int = MOST_BYTES) -> str:
        """A text in UTF-8; bytes that are none show as �. Raises Unreadable."""
        return self.bytes(name, most_bytes).decode("utf-8", "replace")

    def json(self, name: str) -> Any:
        """A JSON document as `plain` leaves it. Raises Unreadable."""
        try:
            return plain(json.loads(self.bytes(name).decode("utf-8")))
        except Unreadable:
            raise
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"{_short(name)} is not JSON ({_why(error)})") from None


def plain(value: Any, depth: int = 0) -> Any:
    """JSON that can be drawn and written: numbers out of bounds become None, halves of surrogate pairs U+FFFD.

    Raises ValueError for more than MOST_DEPTH levels.
    """
    if depth > MOST_DEPTH:
        raise ValueError(f"more than {MOST_DEPTH} levels")
    if type(value) is float:  # nearly all of a run's values
        return value if abs(value) <= MOST_NUMBER else None  # NaN is not
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return value if abs(value) <= MOST_NUMBER else None  # NaN is not
    if isinstance(value, Mapping):
        return {plain(key): plain(item, depth + 1) for key, item in value.items()}
    return [plain(item, depth + 1) for item in value]


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)[:100]


def _short(name: str) -> str:
    shown = name.encode("utf-8", "replace").decode("utf-8")
    return shown if len(shown) <= 120 else f"{shown[:120]}…"
