"""A worker: takes one program at a time from its socket, forks, watches the fork, and tells what became of it."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from ..outcome import Status, is_status, one_line
from . import frames
from .child import UNCONFINED, become
from .confine import Confinement

_PIECE = 1 << 16
_TICK = 1.0  # seconds between two looks at whether our parent lives
_LOOK = 0.1  # seconds between two looks at how many threads a program has
_SECOND = 1.0
_BEGINS_IN = 60.0  # seconds from the fork to its program, on a machine that has much else to do


class Unconfined(Exception):
    """A fork could not be confined, and its program was not run."""


class NotBegun(Exception):
    """A fork was killed, or hung, before its program began: no fault of that."""


@dataclass
class Watched:
    """A fork that runs a program, and what came of it so far."""

    pid: int
    handle: int  # its pidfd
    result: int  # descriptors to read
    printed: int
    parts: dict[int, bytearray] = field(default_factory=dict)
    begun: float = 0.0  # when its program began, by the monotonic clock; 0 before
    status: str = ""  # why it was killed, if it was
    reason: str = ""

    def kill(self, status: str = "", reason: str = "") -> None:
        self.status, self.reason = self.status or status, self.reason or reason
        for send in (os.killpg, os.kill):
            try:
                send(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


@dataclass(frozen=True)
class Worker:
    """What a worker has: its socket, the runner, how programs are confined, and what they may use."""

    socket: socket.socket
    runner: ModuleType
    how: Confinement
    limits: dict[str, float]
    processes: int

    def serve(self) -> None:
        """Until the other side is gone."""
        parent = os.getppid()
        frames.send(self.socket, {"pid": os.getpid()})
        most = (int(self.limits["source_kb"]) << 10) + (int(self.limits["argument_mb"]) << 20)
        while True:
            while not select.select([self.socket], [], [], _TICK)[0]:
                if os.getppid() != parent:
                    return None
            try:
                _, (source, argument) = frames.receive(self.socket, most)
            except (EOFError, OSError):
                return None
            try:
                frames.send(self.socket, *self.run(source, argument))
            except Unconfined as error:
                return frames.send(self.socket, {"unconfined": one_line(str(error))})
            except NotBegun:
                return None  # as if this worker had died: another one tries

    def run(self, source: bytes, argument: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Run one program; the header and the bytes of its outcome."""
        child = self._fork(source, argument)
        try:
            self._watch(child, time.monotonic() + _BEGINS_IN)
        finally:
            child.kill()
            _, code, usage = os.wait4(child.pid, 0)
            for descriptor in (child.handle, child.result, child.printed):
                os.close(descriptor)
            _sweep()
        printed = bytes(child.parts[child.printed])
        status, reason, output = self._judge(child, code, usage.ru_utime + usage.ru_stime)
        header = {
            "status": status,
            "reason": one_line(reason),
            "seconds": round(time.monotonic() - child.begun, 6),
            "peak_mb": round(usage.ru_maxrss / 1024, 3),
        }
        return header, [output, printed]

    def _fork(self, source: bytes, argument: bytes) -> Watched:
        result, to_result = os.pipe()
        printed, to_printed = os.pipe()
        given, nothing = _holding(argument), os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            files = (given, to_printed, nothing, to_result)
            become(self.runner, source, argument, files, self.how, self.limits, self.processes, parent)
        for descriptor in (to_result, to_printed, given, nothing):
            os.close(descriptor)
        return Watched(pid, os.pidfd_open(pid), result, printed, {result: bytearray(), printed: bytearray()})

    def _watch(self, child: Watched, deadline: float) -> None:
        """Read what the fork writes until it ends, runs out of time, writes too much, or has too many threads."""
        most = {
            child.result: (int(self.limits["output_mb"]) << 20) + frames.HEADER + 4,
            child.printed: int(self.limits["printed_kb"]) << 10,
        }
        told = {child.result: "the result", child.printed: "what it printed"}
        poll = select.poll()
        poll.register(self.socket, select.POLLIN | select.POLLRDHUP)
        for descriptor in (*most, child.handle):
            poll.register(descriptor, select.POLLIN)
        ended = False
        while ready := self._ready(poll, child, ended, deadline):
            for descriptor in ready:
                if descriptor == self.socket.fileno():  # nobody asks twice: the other side is gone
                    child.kill()
                    raise SystemExit
                if descriptor == child.handle:
                    ended = True
                    poll.unregister(descriptor)
                    continue
                part = os.read(descriptor, _PIECE)
                if not part:
                    poll.unregister(descriptor)
                    continue
                held = child.parts[descriptor]
                if descriptor == child.result and not held:  # the byte that says that it is confined
                    child.begun = time.monotonic()
                    deadline = child.begun + self.limits["seconds"]
                held += part
                if len(held) > most[descriptor]:
                    del held[most[descriptor] :]
                    return child.kill(Status.OUTPUT, f"{told[descriptor]} is over {most[descriptor] >> 10} KiB")
        return None

    def _ready(self, poll: select.poll, child: Watched, ended: bool, deadline: float) -> list[int]:
        """Descriptors that have something; [] where all is read of a fork that ended, or it was killed."""
        while True:
            left = deadline - time.monotonic()
            found = [descriptor for descriptor, _ in poll.poll(0 if ended else min(max(left, 0.0), _LOOK) * 1000)]
            if ended or (found and left > 0):
                return found
            if left <= 0:
                child.kill(Status.TIMEOUT, f"over {self.limits['seconds']:g} s")
                return []
            if _threads(child.pid) > self.limits["threads"]:  # which the kernel does not limit for root
                child.kill(Status.MEMORY, f"over {self.limits['threads']} threads")
                return []

    def _judge(self, child: Watched, code: int, cpu: float) -> tuple[str, str, bytes]:
        """(status, reason, output) of a fork that ended."""
        written = bytes(child.parts[child.result])
        first, rest = written[:1], written[1:]
        if first == UNCONFINED:
            raise Unconfined(rest.decode(errors="replace"))
        if not first:
            raise NotBegun
        if child.status:
            return child.status, child.reason, b""
        if os.WIFSIGNALED(code):
            number = os.WTERMSIG(code)
            spent = number in (signal.SIGXCPU, signal.SIGKILL) and cpu >= self.limits["seconds"]
            if spent:
                return Status.TIMEOUT, f"over {self.limits['seconds']:g} s of the processor", b""
            return Status.CRASH, f"killed by {_signal(number)}", b""
        if not rest:
            ended = os.WEXITSTATUS(code)
            why = f"it ended by itself with {ended}, before its result"
            return (Status.NO_RESULT if ended == 0 else Status.CRASH), why, b""
        try:
            header, blobs = frames.unpacked(rest)
        except frames.Broken as error:
            return Status.NO_RESULT, f"what came for a result is none: {error}", b""
        if os.WEXITSTATUS(code) != 0:
            return Status.CRASH, f"it ended with {os.WEXITSTATUS(code)} after its result", b""
        status, reason = header.get("status"), header.get("reason")
        if not is_status(status) or not isinstance(reason, str) or len(blobs) != 1:
            return Status.NO_RESULT, "what came for a result has no status, reason and bytes", b""
        return str(status), reason, blobs[0] if status == Status.OK else b""


def _holding(data: bytes) -> int:
    """A descriptor of memory with the data, at its beginning: standard input that needs nobody to write it."""
    place = os.memfd_create("argument", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(place, view) :]
    os.lseek(place, 0, os.SEEK_SET)
    return place


def _threads(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except FileNotFoundError:  # it has ended
        return 0


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _sweep() -> None:
    """End what a program left behind where nothing kept it from forking; orphans of its own come to us."""
    until = time.monotonic() + _SECOND
    while time.monotonic() < until:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            for one in _children():
                try:
                    os.kill(one, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.001)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]
