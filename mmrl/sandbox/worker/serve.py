"""A worker: takes one program at a time from its socket, forks, watches the fork, and tells what became of it."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from types import ModuleType

from ..outcome import Status, one_line
from . import frames
from .child import become
from .confine import Confinement
from .verdict import Ended, NotBegun, Unconfined, judged

_PIECE = 1 << 16
_TICK = 1.0  # seconds between two looks at whether our parent lives
_LOOK = 0.1  # seconds between two looks at how many threads a program has
_SECOND = 1.0
_PR_SET_CHILD_SUBREAPER = 36
_BEGINS_IN = 60.0  # seconds from the fork to its program, on a machine that has much else to do


@dataclass
class Watched:
    """A fork that runs a program, and what came of it so far."""

    pid: int
    handle: int  # its pidfd
    result: int  # descriptors to read
    printed: int
    files: dict[int, int]  # what was read of each so far: a file in memory, and its size
    sizes: dict[int, int]
    begun: float = 0.0  # when its program began, by the monotonic clock; 0 before
    why: tuple[str, str] | None = None  # status and reason, if we killed it

    def kill(self, status: str = "", reason: str = "") -> None:
        if status and self.why is None:
            self.why = status, reason
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
        """Until the other side is gone, or a program was lost."""
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        frames.send(self.socket, {"pid": os.getpid()})
        while True:
            while not select.select([self.socket], [], [], _TICK)[0]:
                if os.getppid() != parent:
                    return None
            try:
                if not self.socket.recv(1, socket.MSG_PEEK):
                    return None
                self.run()
            except Unconfined as error:
                return frames.send(self.socket, {"unconfined": one_line(str(error))})
            except (OSError, frames.Broken, NotBegun, Ended):
                return None  # as if this worker had died: another one tries

    def run(self) -> None:
        """Run the program that waits in the socket, and tell what became of it.

        Nothing of it passes through this process's memory, of which the next has a copy: the fork takes it from the
        socket, and what it writes goes from pipe to file to socket within the kernel.
        """
        child = self._fork()
        try:
            try:
                self._watch(child, time.monotonic() + _BEGINS_IN)
            finally:
                child.kill()
                _, code, usage = os.wait4(child.pid, 0)
                _sweep()
            status, reason, output = judged(child.files[child.result], code, usage, self.limits, child.why)
            header = {
                "status": status,
                "reason": one_line(reason),
                "seconds": round(time.monotonic() - child.begun, 6),
                "peak_mb": round(usage.ru_maxrss / 1024, 3),
            }
            printed = child.files[child.printed], 0, child.sizes[child.printed]
            frames.send_parts(self.socket, header, [(child.files[child.result], *output), printed])
        finally:
            for descriptor in (child.handle, *child.files, *child.files.values()):
                os.close(descriptor)

    def _fork(self) -> Watched:
        result, to_result = os.pipe()
        printed, to_printed = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            files = (to_printed, nothing, to_result)
            become(self.socket, self.runner, files, self.how, self.limits, self.processes, parent)
        for descriptor in (to_result, to_printed, nothing):
            os.close(descriptor)
        written = {pipe: os.memfd_create("written", os.MFD_CLOEXEC) for pipe in (result, printed)}
        return Watched(pid, os.pidfd_open(pid), result, printed, written, dict.fromkeys(written, 0))

    def _watch(self, child: Watched, deadline: float) -> None:
        """Read what the fork writes until it ends, runs out of time, writes too much, or has too many threads."""
        most = {
            child.result: (int(self.limits["output_mb"]) << 20) + frames.HEADER + 4,
            child.printed: int(self.limits["printed_kb"]) << 10,
        }
        told = {child.result: "the result", child.printed: "what it printed"}
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)  # the fork still reads from it
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
                size = os.splice(descriptor, child.files[descriptor], _PIECE)
                if not size:
                    poll.unregister(descriptor)
                    continue
                if descriptor == child.result and not child.begun:  # the byte that says that it is confined
                    child.begun = time.monotonic()
                    deadline = child.begun + self.limits["seconds"]
                    poll.modify(self.socket, select.POLLIN | select.POLLRDHUP)
                child.sizes[descriptor] += size
                if child.sizes[descriptor] > most[descriptor]:
                    child.sizes[descriptor] = most[descriptor]
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


def _threads(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except FileNotFoundError:  # it has ended
        return 0


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
