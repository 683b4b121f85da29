"""What became of a fork, from what it wrote and how it ended."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping
from typing import Any

from ..outcome import Status, is_status
from . import frames
from .child import UNCONFINED


class Unconfined(Exception):
    """A fork could not be confined, and its program was not run."""


class NotBegun(Exception):
    """A fork was killed, or hung, before its program began: no fault of that."""


class Ended(Exception):
    """A fork was ended from outside: nothing is known of its program."""


def judged(
    written: int, code: int, usage: resource.struct_rusage, limits: Mapping[str, float], why: tuple[str, str] | None
) -> tuple[str, str, tuple[int, int]]:
    """(status, reason, where the output begins and how long it is).

    written: the file with what it wrote to the result's pipe, of which no more is read than its header. code: as of
    os.wait. why: status and reason, if its watcher killed it. Raises Unconfined, NotBegun, Ended.
    """
    first, nothing = os.pread(written, 1, 0), (0, 0)
    if first == UNCONFINED:
        raise Unconfined(os.pread(written, 1000, 1).decode(errors="replace"))
    if not first:
        raise NotBegun
    if why is not None:
        return *why, nothing
    if os.WIFSIGNALED(code):
        return *_killed(os.WTERMSIG(code), usage, limits), nothing
    ended = os.WEXITSTATUS(code)
    if os.fstat(written).st_size == 1:
        status = Status.NO_RESULT if ended == 0 else Status.CRASH
        return status, f"it ended by itself with {ended}, before its result", nothing
    try:
        header, start = _header(written)
    except frames.Broken as error:
        return Status.NO_RESULT, f"what came for a result is none: {error}", nothing
    if ended != 0:
        return Status.CRASH, f"it ended with {ended} after its result", nothing
    said, reason = header.get("status"), header.get("reason")
    if not is_status(said) or not isinstance(reason, str) or len(header["sizes"]) != 1:
        return Status.NO_RESULT, "what came for a result has no status, reason and bytes", nothing
    return str(said), reason, (start, header["sizes"][0]) if said == Status.OK else nothing


def _header(written: int) -> tuple[dict[str, Any], int]:
    """The header of the one message behind the first byte, and where its bytes begin. Raises frames.Broken."""
    four = os.pread(written, 4, 1)
    if len(four) < 4:
        raise frames.Broken("it ends within the length of its header")
    said = os.pread(written, size := frames.length(four), 5)
    if len(said) < size:
        raise frames.Broken("it ends within its header")
    header = frames.parsed(said)
    if os.fstat(written).st_size != 5 + size + sum(header["sizes"]):
        raise frames.Broken("its length is not what its header says")
    return header, 5 + size


def _killed(number: int, usage: resource.struct_rusage, limits: Mapping[str, float]) -> tuple[str, str]:
    """(status, reason) of a fork that a signal ended which was not its watcher's. Raises Ended."""
    if number in (signal.SIGXCPU, signal.SIGKILL) and usage.ru_utime + usage.ru_stime >= limits["seconds"]:
        return Status.TIMEOUT, f"over {limits['seconds']:g} s of the processor"
    if number != signal.SIGKILL:
        return Status.CRASH, f"killed by {_signal(number)}"
    # A program can send no signal: the machine was out of memory, or somebody ended it.
    taken = (usage.ru_maxrss - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
    if taken < limits["memory_mb"] / 2:
        raise Ended
    return Status.MEMORY, f"killed by the kernel when it had {taken:.0f} MiB of its own"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
