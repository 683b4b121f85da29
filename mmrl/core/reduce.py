"""The one door through which every statistic passes, so that one process and many give the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

# (tensor, "sum" | "max" | "min") -> the same shape and dtype, combined element by element over all ranks.
# A collective: every rank must call it equally often, whatever its data.
Reduce = Callable[[Tensor, str], Tensor]

OPS = ("sum", "max", "min")


def local(x: Tensor, op: str = "sum") -> Tensor:
    """The reduce of a single process: `x` itself."""
    _check(op)
    return x


def distributed(x: Tensor, op: str = "sum", wait: Callable[[dist.Work], None] | None = None) -> Tensor:
    """`x` combined over all ranks of the default process group; `x` is left as it is, its dtype is kept.

    wait: returns when the work is done, or raises; None waits in C++, where no signal's handler runs.
    Raises RuntimeError where torch.distributed has not been initialised.
    """
    _check(op)
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "distributed reduce: torch.distributed has no process group; start the run with a launcher "
            "(which calls init_process_group), or use mmrl.core.reduce.local in a single process"
        )
    combined = x.detach().clone(memory_format=torch.contiguous_format)
    work = dist.all_reduce(combined, op=getattr(dist.ReduceOp, op.upper()), async_op=wait is not None)
    if wait is not None:
        wait(work)
    return combined


def _check(op: str) -> None:
    if op not in OPS:
        raise ValueError(f"reduce: unknown op {op!r}; use one of {', '.join(OPS)}")
