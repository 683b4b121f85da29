"""The processes of a run, behind accelerate: device, reductions, gradient sums, trackers; and what ends them together.

A process that fails leaves a note (see notes) and ends; the others see it, or its broken connection, where they wait
for it, and fail with its reason.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmrl.config import ConfigError
from mmrl.core.reduce import Reduce, distributed, local
from mmrl.launched import processes
from mmrl.training.notes import LAG_S, Failed, Notes, told
from mmrl.training.presence import Presence

TIMEOUT_S = 1800.0
# While a process waits for others: the first pause, how much longer each is than the one before, the longest; and how
# often it asks whether to go on waiting.
_PAUSE_S, _GROWTH, _LONGEST_S, _ASK_S = 1e-5, 1.1, 0.02, 0.5


Error = TypeVar("Error", bound=Exception)
_SHARED = "raised_by_all_processes"
_KILLED = "was killed (out of memory?)"
# NCCL ends a process without a word where its own time is over: so much later than ours.
_LATER_S = 30.0


class LostProcess(RuntimeError):
    """Other processes ended, or kept this one waiting for too long, without saying why."""


class Processes:
    """One process, or N started by `accelerate launch`. Every statistic of a run goes through `reduce`.

    timeout: seconds that a process waits for the others.
    while_waiting: asked twice a second in which this process waits for others; raises to leave them.
    """

    _waited = 0.0  # seconds, for others
    presence = Presence(".", 0, 1)  # of one process, which nobody looks for

    def __init__(
        self,
        device: str = "auto",
        trackers: Iterable[str] = (),
        run_dir: str = ".",
        timeout: float = TIMEOUT_S,
    ) -> None:
        from accelerate import Accelerator, InitProcessGroupKwargs
        from accelerate.utils import GradientAccumulationPlugin

        check_trackers(trackers)
        on_cpu = device == "cpu" or not torch.accelerator.is_available()
        backend_s = timeout if on_cpu else timeout + _LATER_S
        group, steps = InitProcessGroupKwargs(timeout=timedelta(seconds=backend_s)), GradientAccumulationPlugin(1)
        # Their own empty os.environ for a moment: a thread of an earlier run that reads it then ends the process.
        vars(group)["to_kwargs"] = partial(dict, timeout=group.timeout)
        vars(steps)["to_kwargs"] = partial(dict, num_steps=1)
        self.accelerator = Accelerator(
            cpu=on_cpu,  # or accelerate joins no processes where it finds no accelerator
            log_with=list(trackers) or None,
            project_dir=run_dir,
            gradient_accumulation_plugin=steps,
            kwargs_handlers=[group],
        )
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        if processes() != self.world:
            raise ConfigError(
                f"the launcher says WORLD_SIZE={processes()} and {self.world} came together; set RANK, LOCAL_RANK, "
                "MASTER_ADDR and MASTER_PORT, too, or start with torchrun"
            )
        self.device: torch.device = self.accelerator.device
        self.timeout = timeout
        self.notes = Notes(run_dir, self.rank, self.world)
        self.presence = Presence(run_dir, self.rank, self.world)
        self.while_waiting: Callable[[], None] = _nothing
        self._reduce: Reduce = partial(distributed, wait=self._wait) if self.world > 1 else local
        if self.world > 1:
            atexit.unregister(_let_go)
            atexit.register(_let_go)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def appear(self) -> None:
        """From now on the others see what this process is at, and read its notes: the run's folder is theirs."""
        self.notes.open()
        self.presence.open(self.barrier, self._end_alone, lambda: bool(self.notes.read()))

    def reduce(self, x: Tensor, op: str = "sum") -> Tensor:
        """`x` combined over processes ("sum", "max", "min"), on the CPU."""
        if self.world == 1:
            return x
        return self._reduce(x.to(self.device), op).to(x.device)

    def total(self, value: float, op: str = "sum") -> float:
        return float(self.reduce(torch.tensor(float(value), dtype=torch.float64), op))

    def any(self, flag: bool) -> bool:
        """True on every process when it is true on one."""
        return self.total(float(flag), "max") > 0

    def equal(self, count: int) -> int:
        """The largest of the processes' counts: how many times all have to do what has to be done together."""
        return int(self.total(count, "max"))

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, something that JSON can hold, by rank."""
        if self.world == 1:
            return [value]
        text = json.dumps(value).encode("ascii")
        rows = torch.zeros(self.world, int(self.total(len(text), "max")), dtype=torch.uint8)
        rows[self.rank, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return [json.loads(row.tobytes().rstrip(b"\0")) for row in self.reduce(rows, "max").numpy()]

    def barrier(self) -> None:
        self.total(0.0)

    def once(self, action: Callable[[], None]) -> None:
        """Run `action` on the main process when every process has come here; the others wait until it has ended.

        Where it fails, all raise: the main process its error, the others Failed.
        """
        self.barrier()
        failed: Exception | None = None
        if self.is_main:
            try:
                action()
            except Exception as error:
                failed = error
        if self.any(failed is not None):
            raise failed or told(Failed("the main process failed while the others waited; its own error says at what"))

    @contextmanager
    def failing_alike(self, kind: type[Error]) -> Iterator[None]:
        """Around what every process comes to: an error of this kind on one is one on all, so that all go the same way.

        Where it happened it is raised as it was, elsewhere one with the reasons; the main process tells it. `is_shared`
        knows it again. Also a barrier.
        """
        failed: Error | None = None
        try:
            yield
        except kind as error:
            failed = error
        if not self.any(failed is not None):
            return
        reasons = self.gather("" if failed is None else f"process {self.rank}: {failed}")
        shared = failed or kind("; ".join(reason for reason in reasons if reason))
        setattr(shared, _SHARED, True)
        raise shared if self.is_main else told(shared)

    @contextmanager
    def ending_together(self, besides: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
        """Around what the processes of a run do together: a failure of one ends all, with its reason.

        It is raised where it happened, and Failed elsewhere, with what the failing process left as a note; the main
        process tells it (see notes.is_told). No process leaves the block before all have come to its end. besides:
        ends that all come to alike.
        """
        try:
            yield
            self.barrier()
            self.presence.close(well=True)
        except besides:
            self.presence.close(well=True)
            raise
        except Failed:
            raise
        except BaseException as error:
            # Where weights are divided, others are lost in the middle of a model, which says so in its own words.
            lost = self._lost(error) if _of_network(error) else error
            if isinstance(lost, LostProcess):  # told by the main process, where that is not the one
                self.presence.at(lost=True)
                self.notes.refuse(patience=LAG_S if self.is_main else 2 * LAG_S)
                lost = self._named(lost)
            if self.is_main or not isinstance(lost, LostProcess):
                self.notes.write(lost)
            if lost is error:
                raise
            raise lost from error
        finally:
            self.presence.close(well=False)

    def _wait(self, work: dist.Work) -> None:
        """Until a collective is done, coming back to Python now and then, so that handlers of signals run.

        Raises LostProcess, and what `while_waiting` raises.
        """
        began = time.monotonic()
        while not self._is_done(work, _ASK_S):
            self.presence.at(waits=True)
            try:
                self.notes.refuse()
                self.while_waiting()
                self._refuse_to_wait_longer(began)
            except BaseException:
                _abandoned.append(work)
                raise
        try:
            work.wait()
        except RuntimeError as error:
            raise self._lost(error) from error
        if self.presence.place.waits:
            self.presence.at(waits=False)
        self._waited += time.monotonic() - began

    def _refuse_to_wait_longer(self, began: float) -> None:
        """Where the backend ends the whole process behind a time-out, as NCCL's does, say first what it was."""
        if self.device.type != "cpu" and time.monotonic() - began > self.timeout:
            raise self._lost(RuntimeError("the time is over"))

    def _lost(self, error: BaseException) -> LostProcess:
        first = (str(error).splitlines() or [""])[0]
        return LostProcess(self._about_lost("another one", f"{_KILLED}, or {self._late} ({first})"))

    def _named(self, lost: LostProcess) -> LostProcess:
        """The same with who is missing, where that is known."""
        missing, ended = self.presence.missing()
        if not missing or type(lost) is not LostProcess:
            return lost
        who = ", ".join(f"process {rank} ({place})" for rank, place in missing.items())
        why = {True: _KILLED, False: self._late, None: f"{_KILLED}, or {self._late}"}[ended]
        return LostProcess(self._about_lost(who, why))

    def _about_lost(self, who: str, why: str) -> str:
        return f"process {self.rank} lost {who}: it {why}; the last checkpoint stands: go on with --resume"

    @property
    def _late(self) -> str:
        return f"kept the others waiting for longer than timeout={self.timeout:g} seconds"

    def _end_alone(self) -> None:
        """In a thread: another process is gone, and this one, maybe in the middle of a collective that cannot be left,
        has not ended for it. One process tells why, as in `ending_together`."""
        try:
            self.notes.refuse(patience=LAG_S if self.is_main else 2 * LAG_S)
            error: Exception = self._named(self._lost(TimeoutError("no collective ended")))
            self.notes.write(error)
            tells = True
        except Failed as failed:
            error, tells = failed, self.is_main
        if tells:
            print(f"error: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def waiting(self) -> dict[str, float]:
        """Since the last call: the seconds that the process which waited most has waited for others, and which one
        waited least: it is the slowest. {} for one process. Every process calls."""
        if self.world == 1:
            return {}
        spent, self._waited = self._waited, 0.0
        every = self.gather(spent)
        return {"time/waiting": max(every), "time/slowest_process": every.index(min(every))}

    def _is_done(self, work: dist.Work, patience: float) -> bool:
        """Whether a collective ends, well or not, within so many seconds."""
        if self.device.type == "cpu":  # gloo, which wakes up at once; NCCL ends the whole group after such a wait
            try:
                work.wait(timedelta(seconds=patience))
            except RuntimeError:
                return work.is_completed()
            return True
        pause, until = _PAUSE_S, time.monotonic() + patience
        while not work.is_completed():
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST_S)
        return True

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add gradients over processes in one flat buffer; a process without samples contributes zeros.

        Loss weights are already divided by counts over all processes, so that a sum is the right combination
        and processes may run different numbers of micro-batches.
        """
        if self.world == 1:
            return
        parameters = list(parameters)
        # A parameter without a gradient on every process stays without one, as it would on one process.
        has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        used = [p for p, some in zip(parameters, self.reduce(has, "max").tolist()) if some]
        if not used:
            return
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
        flat = self._reduce(torch.cat([g.flatten() for g in own]), "sum")
        for p, gradient, part in zip(used, own, flat.split([p.numel() for p in used])):
            gradient.copy_(part.view_as(p))
            p.grad = gradient

    def start_trackers(self, name: str, config: dict[str, Any]) -> None:
        if self.accelerator.log_with:
            flat = {k: v for k, v in config.items() if isinstance(v, int | float | str | bool)}
            self.accelerator.init_trackers(name, config=flat)

    def log(self, row: dict[str, Any]) -> None:
        if self.accelerator.trackers:
            values = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
            self.accelerator.log(values, step=row["step"])

    @property
    def trackers(self) -> list[Any]:
        """Accelerate's, on the process that writes to them."""
        return list(self.accelerator.trackers) if self.is_main else []

    def end(self) -> None:
        if self.accelerator.trackers:
            self.accelerator.end_training()


def is_shared(error: BaseException) -> bool:
    """Whether all processes raise this error, at the same place, so that they can still do something together."""
    return bool(getattr(error, _SHARED, False))


_abandoned: list[dist.Work] = []  # collectives that were left while others were missing


def _of_network(error: BaseException) -> bool:
    """Whether a collective failed: gloo's are plain RuntimeErrors that say where in gloo."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))


def _nothing() -> None:
    """Go on waiting."""


def _let_go() -> None:
    """Let gloo's threads let go of the last collective before Python ends.

    They want the interpreter's lock for it, and a process that ends while they wait for that is aborted, with all its
    work done (PyTorch issue 190489); sleeping gives the lock away. A collective that was left is never done, and gloo
    would wait for it until its time-out.
    """
    time.sleep(0.2)
    if not all(work.is_completed() for work in _abandoned):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def check_trackers(trackers: Iterable[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed."""
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"trackers: {name} is not installed; run: pip install {name}")
