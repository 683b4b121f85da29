"""What adds to the gradient of an optimizer step: several losses, each micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from mmrl.training.stages.update import MicroBatch


class Addend(NamedTuple):
    """micros: how many micro-batches it has. add: of how many are done already; accumulates the gradient, and yields
    behind each micro-batch. A loss that is not finite is yielded without a backward."""

    micros: int
    add: Callable[[int], Iterator[MicroBatch]]


def chained(addends: Sequence[Addend]) -> Addend:
    """The sum of some, one behind the other; micro-batches are numbered through."""

    def add(start: int) -> Iterator[MicroBatch]:
        before = 0
        for addend in addends:
            done = min(max(0, start - before), addend.micros)
            if done < addend.micros or not addend.micros:  # a process without any may have to take part in others'
                yield from (replace(part, number=before + part.number) for part in addend.add(done))
            before += addend.micros

    return Addend(sum(addend.micros for addend in addends), add)
