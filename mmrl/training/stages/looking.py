"""How a distill stage looks at the samples of a step: which ones, where on their way, and noised how."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mmrl.types import Group, Sample


class Row(NamedTuple):
    """A sample of a step, with its group."""

    group: Group
    sample: Sample


class Look(NamedTuple):
    """At which of their steps samples are made anew [b], and at which times [b] and noises they are looked at."""

    places: Tensor
    times: Tensor
    seeds: list[int]


class Made(NamedTuple):
    """Samples made anew, [b, ...] all. clean: what the policy takes for their ends, differentiable. real: what its
    guided teacher takes that for, once it is noised. of: the same of a role, by its name (and guidance)."""

    clean: Tensor
    real: Tensor
    of: Callable[..., Tensor]


def above(times: Tensor, level: Tensor) -> Tensor:
    """[b]: times in [0, 1] brought to the part of the path above a noise level [b]."""
    return level + (1 - level) * times


# Where the policy's samples are to go down, [b, ...], sized as mmrl.core.distribution.dmd_direction is.
Direction = Callable[[Made], Tensor]
