"""The processes of a run, behind accelerate: device, reductions, gradient sums, trackers."""

from __future__ import annotations

import atexit
import importlib.util
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.config import ConfigError
from mmrl.core.reduce import Reduce, distributed, local


class Processes:
    """One process, or N started by `accelerate launch`. Every statistic of a run goes through `reduce`."""

    def __init__(self, device: str = "auto", trackers: Iterable[str] = (), run_dir: str = ".") -> None:
        from accelerate import Accelerator

        _check_trackers(trackers)
        self.accelerator = Accelerator(cpu=device == "cpu", log_with=list(trackers) or None, project_dir=run_dir)
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self._reduce: Reduce = distributed if self.world > 1 else local
        if self.world > 1:
            atexit.unregister(_let_go)
            atexit.register(_let_go)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

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

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, something that JSON can hold, by rank."""
        if self.world == 1:
            return [value]
        text = json.dumps(value).encode("ascii")
        rows = torch.zeros(self.world, int(self.total(len(text), "max")), dtype=torch.int64)
        rows[self.rank, : len(text)] = torch.tensor(list(text))
        return [json.loads(bytes(row).rstrip(b"\0")) for row in self.reduce(rows, "sum").tolist()]

    def barrier(self) -> None:
        if self.world > 1:
            self.accelerator.wait_for_everyone()

    def once(self, action: Callable[[], None]) -> None:
        """Run `action` on the main process when every process has come here; the others wait until it has ended.

        Where it fails, all raise: the main process its error, the others a RuntimeError.
        """
        self.barrier()
        failed: Exception | None = None
        if self.is_main:
            try:
                action()
            except Exception as error:
                failed = error
        if self.any(failed is not None):
            raise failed or RuntimeError("the main process failed while the others waited; its own error says at what")

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

    def end(self) -> None:
        if self.accelerator.trackers:
            self.accelerator.end_training()


def _let_go() -> None:
    """Let gloo's threads let go of the last collective before Python ends.

    They want the interpreter's lock for it, and a process that ends while they wait for that is aborted, with all its
    work done (PyTorch issue 190489); sleeping gives the lock away.
    """
    time.sleep(0.2)


def _check_trackers(trackers: Iterable[str]) -> None:
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"trackers: {name} is not installed; run: pip install {name}")
