"""Two ranks in one process: threads that meet at a barrier, as an all-reduce makes processes meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from mmrl.core.reduce import Reduce

# A busy machine makes single examples slow; the time of the whole file is what matters.
settings.register_profile("core", deadline=None, max_examples=50)
settings.load_profile("core")

COMBINE = {"sum": lambda x: x.sum(0), "max": lambda x: x.amax(0), "min": lambda x: x.amin(0)}


def run_ranks(work: Callable[[int, Reduce], Any], ranks: int = 2) -> list[Any]:
    """[work(rank, reduce) for each rank], side by side; a rank that skips a reduce breaks the barrier."""
    barrier = threading.Barrier(ranks, timeout=120)
    slots: list[Any] = [None] * ranks

    def run(rank: int) -> Any:
        def reduce(x: Tensor, op: str = "sum") -> Tensor:
            slots[rank] = (op, x)
            barrier.wait()
            ops, values = zip(*slots)
            assert len(set(ops)) == 1, f"ranks disagree on the operation: {ops}"
            combined = COMBINE[op](torch.stack(values))
            barrier.wait()
            return combined

        result = work(rank, reduce)
        barrier.wait()  # nobody may leave while another still reduces
        return result

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, range(ranks)))


@pytest.fixture
def ranks() -> Callable[..., list[Any]]:
    return run_ranks


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
