"""A sandbox: programs in, outcomes out, from several workers at a time; whatever a program does, it is one outcome."""

from __future__ import annotations

import atexit
import os
import select
import shutil
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Sequence

from .limits import Limits
from .outcome import Outcome, Status
from .process import Layers, Lost, SandboxError, Template, TemplateLost, Worker, check_kernel, find_bubblewrap, lacks

NEEDED = ("rlimits", "landlock", "seccomp")
_TRIES = 2  # of a program
_STARTS = 10  # of a worker
_GRACE = 60.0  # seconds beyond a program's own after which its worker is taken for dead
_open: weakref.WeakSet[Sandbox] = weakref.WeakSet()


class Sandbox:
    """Runs programs that nobody trusts, each in a confined fork of a process that imported the runner's kernel once.

    runner: the import path of a module with `prepare() -> None`, called once and trusted, and
    `execute(source: str, argument: bytes) -> bytes`, called confined; it may name folders to read in `READS`.
    limits: what a program may use. workers: programs that run at a time. python: the interpreter's path, None for this
    one; it needs Python 3.11 and what the runner imports, not mmrl. path: folders for its sys.path. reads: what
    programs may read beside Python. strict: refuse to run where landlock or seccomp is missing. bubblewrap: put the
    workers into namespaces of their own where bubblewrap is installed and works.

    It starts with the first program, or with `start`; it may be used from several threads and after a fork, and ends
    with the process or with `close`.
    """

    def __init__(
        self,
        runner: str,
        limits: Limits | None = None,
        *,
        workers: int = 1,
        python: str | None = None,
        path: Sequence[str] = (),
        reads: Sequence[str] = (),
        strict: bool = True,
        bubblewrap: bool = True,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers} must be 1 at least")
        self.runner, self.limits, self.workers = runner, limits or Limits(), workers
        self.python, self.path, self.reads = python or sys.executable, list(path), list(reads)
        self.strict, self._bubblewrap = strict, bubblewrap
        self._wrapper: str | None = None
        self._reset()
        _open.add(self)

    def _reset(self) -> None:
        self._change = threading.Condition()
        self._template: Template | None = None
        self._free: list[Worker] = []
        self._made = 0  # workers, free or at work

    def check(self) -> None:
        """Raises SandboxError for what is seen without starting anything: system, kernel, interpreter."""
        check_kernel(self.strict)
        if shutil.which(self.python) is None:
            raise SandboxError(f"the sandbox's interpreter {self.python!r} does not start: it is no program")

    def start(self) -> Layers:
        """Start it, unless it runs, and say what its layers are. Raises SandboxError in one line."""
        with self._change:
            return self._layers(self._running())

    def run(self, programs: Sequence[tuple[str, bytes]]) -> list[Outcome]:
        """What became of each (source, argument), in their order. Raises SandboxError where nothing can be run.

        A program whose worker dies is run once more by another; if that dies, too, it is lost.
        """
        most = (self.limits.output_mb + 1 << 20) + (self.limits.printed_kb << 10)
        outcomes: list[Outcome | None] = [self._refused(source, argument) for source, argument in programs]
        waiting = deque(place for place, outcome in enumerate(outcomes) if outcome is None)
        tries = [0] * len(programs)
        active: dict[Worker, tuple[int, float]] = {}
        try:
            while waiting or active:
                while waiting and (worker := self._worker(wait=not active)):
                    place = waiting.popleft()
                    source, argument = programs[place]
                    active[worker] = place, time.monotonic() + self.limits.seconds + _GRACE
                    try:
                        worker.give(source.encode("utf-8", "surrogatepass"), argument)
                    except Lost:  # it died while it had nothing to do: no try of this program
                        del active[worker]
                        self._gone(worker)
                        waiting.appendleft(place)
                for worker in _answering(active):
                    place, _ = active[worker]  # and it stays there until it is back: Ctrl-C leaves none behind
                    try:
                        outcomes[place] = worker.take(most)
                    except Lost:
                        del active[worker]
                        self._gone(worker)
                        tries[place] += 1
                        if tries[place] < _TRIES:
                            waiting.appendleft(place)
                        else:
                            outcomes[place] = Outcome(
                                Status.CRASH, reason=f"its worker ended {_TRIES} times", lost=True
                            )
                    else:
                        del active[worker]
                        self._back(worker)
        finally:
            for worker in active:
                self._gone(worker)
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """End its processes; a later `run` starts them anew. Programs that run in other threads are lost to them."""
        with self._change:
            for worker in self._free:
                worker.close()
            self._made -= len(self._free)
            self._free.clear()
            template, self._template = self._template, None
        if template is not None:
            template.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refused(self, source: str, argument: bytes) -> Outcome | None:
        """What is not even handed on."""
        size = len(source.encode("utf-8", "surrogatepass"))
        if size > self.limits.source_kb << 10:
            return Outcome(Status.BLOCKED, reason=f"a program of {size >> 10} KiB, {self.limits.source_kb} are allowed")
        if len(argument) > self.limits.argument_mb << 20:
            raise ValueError(f"an argument of {len(argument) >> 20} MiB, argument_mb={self.limits.argument_mb}")
        return None

    def _running(self) -> Template:
        """The template, started where it is not; the lock is held."""
        if self._template is None:
            self.check()
            if self._wrapper is None:
                self._wrapper = find_bubblewrap() if self._bubblewrap else ""
            template = Template(self.python, self.runner, self.path, self.reads, self.limits, self._wrapper)
            missing = {name: template.layers[name] for name in NEEDED if template.layers[name]}
            if missing and self.strict:
                template.close()
                raise lacks(missing)
            if missing:
                warnings.warn(f"programs run without {' and '.join(missing)}: {missing}", stacklevel=2)
            self._template = template
        return self._template

    def _layers(self, template: Template) -> Layers:
        wrapped = "" if self._wrapper else "bwrap is not installed, does not work here, or is not wanted"
        return Layers({**template.layers, "bubblewrap": wrapped})

    def _worker(self, wait: bool) -> Worker | None:
        """A worker to give a program to; None where all are at work and the caller does not wait."""
        with self._change:
            while True:
                if self._free:
                    return self._free.pop()
                if self._made < self.workers:
                    worker = self._new()
                    self._made += 1
                    return worker
                if not wait:
                    return None
                self._change.wait()

    def _new(self) -> Worker:
        for _ in range(_STARTS):
            template = self._running()
            try:
                return template.worker()
            except TemplateLost:
                template.close()
                self._template = None
            except Lost:
                continue  # killed before it said a word; the template has more
        raise SandboxError(f"the sandbox's process was asked {_STARTS} times for a worker, and each was gone at once")

    def _back(self, worker: Worker) -> None:
        with self._change:
            if worker.template is self._template:  # it was neither closed nor started anew meanwhile
                self._free.append(worker)
            else:
                worker.close()
                self._made -= 1
            self._change.notify()

    def _gone(self, worker: Worker) -> None:
        worker.close()
        with self._change:
            self._made -= 1
            self._change.notify()

    def _forget(self) -> None:
        """In a fork of this process: what is open belongs to the parent."""
        for worker in self._free:
            worker.close()
        if self._template is not None:
            self._template.forget()
        self._reset()


def _answering(active: dict[Worker, tuple[int, float]]) -> list[Worker]:
    """Waits for workers that have something to say, or have had their time."""
    poll = select.poll()
    by_number = {worker.fileno(): worker for worker in active}
    for number in by_number:
        poll.register(number, select.POLLIN)
    left = min(deadline for _, deadline in active.values()) - time.monotonic()
    found = [by_number[number] for number, _ in poll.poll(max(0.0, left) * 1000)]
    now = time.monotonic()
    late = [worker for worker, (_, deadline) in active.items() if worker not in found and deadline < now]
    for worker in late:  # its answer is none
        worker.close()
    return [*found, *late]


def close_all() -> None:
    """End the processes of every sandbox of this process; called when it ends."""
    for sandbox in list(_open):
        sandbox.close()


def _forget_all() -> None:
    for sandbox in list(_open):
        sandbox._forget()


atexit.register(close_all)
os.register_at_fork(after_in_child=_forget_all)
