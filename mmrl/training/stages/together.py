"""Micro-batches that all processes take part in, where weights are divided over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from mmrl.modalities.adapter import Adapter
from mmrl.training.run import Run
from mmrl.types import Prompt, Sample


def missing(run: Run, count: int) -> int:
    """How many more micro-batches another process has than this one, which has so many, where weights are divided: it
    has to take part in them, as they are gathered from all. 0 where they are not. Every process calls."""
    return run.processes.equal(count) - count if run.adapter.shards is not None else 0


def take_part(count: int, made: Callable[[], Tensor]) -> None:
    """As many forwards and backwards as so many micro-batches make, whose gradient is zero. made: what a small one
    makes, differentiable."""
    for _ in range(count):
        (0.0 * made().sum()).backward()


def spare_sample(adapter: Adapter, samples: Iterable[Sample], prompts: Sequence[Prompt]) -> Sample:
    """What a process takes part with: the first of the samples, or where it has none a blank one of a prompt."""
    found = next(iter(samples), None) or adapter.blank(prompts[0])
    assert found is not None, "an adapter that can be divided makes blank samples"
    return found
