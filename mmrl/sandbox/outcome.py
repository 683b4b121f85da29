"""What became of a program: its status, what it handed back, and how a runner says no to one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_OWN = re.compile(r"[a-z][a-z0-9_]{0,39}")
_LONGEST = 200


class Status(StrEnum):
    """How a program ended. A runner may have further words of its own, such as `not_solid`."""

    OK = "ok"
    SYNTAX = "syntax"  # it does not parse
    BLOCKED = "blocked"  # the first sieve refused it; it was not run
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"  # it printed or returned more than may be
    CRASH = "crash"  # a signal, or an exit of its own; or its worker was lost twice
    NO_RESULT = "no_result"  # it ended as if all were well, and handed nothing back that can be read


@dataclass(frozen=True)
class Outcome:
    """What became of one program.

    status: a Status, or a word of the runner's own. output: what the runner returned, b"" unless it is ok; it comes
    from where the program ran, so that a program can forge it: never believe it, measure it. reason: one line, "" if
    ok. seconds: wall clock. peak_mb: largest resident memory (MiB), with what is shared with the worker. printed: what
    went to its standard output, whatever the status. lost: its worker ended twice, which is none of its words.
    """

    status: str
    output: bytes = b""
    reason: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0
    printed: bytes = b""
    lost: bool = False

    @property
    def ok(self) -> bool:
        return self.status == Status.OK


class Refused(Exception):
    """Raised by a runner to end a program with a status and a reason of one line."""

    def __init__(self, status: str, reason: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason = str(status), reason


def is_status(word: object) -> bool:
    """Whether the word may be a status: what a child says is not believed before."""
    return isinstance(word, str) and _OWN.fullmatch(word) is not None


def one_line(text: str) -> str:
    """The text on one line, printable, at most 200 characters."""
    text = " ".join(text[: 4 * _LONGEST].split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
