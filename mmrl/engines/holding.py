"""Who sends weights to a server: one run at a time, and whether it still lives."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mmrl.engines.http_client import ServerError

MARK, ENDED = "mmrl", ", ended"


class Taken(ServerError):
    """Another run sends weights to the server."""


@dataclass(frozen=True)
class Holder:
    """A run by its main process. began: when that began, in the kernel's ticks (0: not known), as numbers of processes
    are used again. unique: tells the engines of one process apart. host: without `:` and spaces."""

    host: str
    pid: int
    began: int
    unique: str

    @classmethod
    def own(cls) -> Self:
        return cls(_host(), os.getpid(), _began(os.getpid()) or 0, uuid.uuid4().hex[:12])

    @classmethod
    def of(cls, mark: str) -> Self | None:
        """Who gave weights this mark: `mmrl HOLDER NUMBER`, and what follows a comma. None: nobody that is known."""
        words = mark.partition(",")[0].split(" ")
        return cls.read(words[1]) if len(words) == 3 and words[0] == MARK else None

    @classmethod
    def read(cls, text: str) -> Self | None:
        host, *rest = text.split(":")
        if len(rest) != 3 or not (rest[0].isdecimal() and rest[1].isdecimal()):
            return None
        return cls(host, int(rest[0]), int(rest[1]), rest[2])

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.began}:{self.unique}"

    @property
    def words(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether its process is this one."""
        return (self.host, self.pid, self.began) == (_host(), os.getpid(), _began(os.getpid()) or 0)

    @property
    def lives(self) -> bool | None:
        """Whether its process is there; None where it is on another machine."""
        if self.host != _host():
            return None
        began = _began(self.pid)
        return began is not None and self.began in (0, began)

    def mark(self, version: int) -> str:
        """Of weights that it has sent."""
        return f"{MARK} {self} {version}"


def _host() -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in socket.gethostname()) or "unknown"


def _began(pid: int) -> int | None:
    """Ticks from the machine's start to that of a process; 0 where nothing tells; None: there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, ValueError, IndexError):
        return 0
    try:
        os.kill(pid, 0)  # no signal: asks whether it is there
    except ProcessLookupError:
        return None
    except OSError:
        return 0
    return 0
