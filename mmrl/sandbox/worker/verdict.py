"""What became of a fork, from what it wrote and how it ended."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping

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
    written: bytes, code: int, usage: resource.struct_rusage, limits: Mapping[str, float], why: tuple[str, str] | None
) -> tuple[str, str, bytes]:
    """(status, reason, output). written: to the result's pipe. code: as os.wait has it. why: status and reason, if its
    watcher killed it. Raises Unconfined, NotBegun, Ended."""
    first, rest = written[:1], written[1:]
    if first == UNCONFINED:
        raise Unconfined(rest.decode(errors="replace"))
    if not first:
        raise NotBegun
    if why is not None:
        return *why, b""
    if os.WIFSIGNALED(code):
        return *_killed(os.WTERMSIG(code), usage, limits), b""
    ended = os.WEXITSTATUS(code)
    if not rest:
        status = Status.NO_RESULT if ended == 0 else Status.CRASH
        return status, f"it ended by itself with {ended}, before its result", b""
    try:
        header, blobs = frames.unpacked(rest)
    except frames.Broken as error:
        return Status.NO_RESULT, f"what came for a result is none: {error}", b""
    if ended != 0:
        return Status.CRASH, f"it ended with {ended} after its result", b""
    said, reason = header.get("status"), header.get("reason")
    if not is_status(said) or not isinstance(reason, str) or len(blobs) != 1:
        return Status.NO_RESULT, "what came for a result has no status, reason and bytes", b""
    return str(said), reason, blobs[0] if said == Status.OK else b""


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
