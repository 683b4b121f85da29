"""Whether an engine's log-probs are the trainer's: two bounds that rounding stays under and other weights do not.

The mean of |engine - trainer| over a chunk's tokens may be a quarter of the tolerance, and one token in a hundred may
be above it: rounding has long tails (a rare token in 16 bits, an expert that a near tie decides). One far token says
nothing; wrong weights, prompts or soft caps move many. A chunk of less than 100 tokens may have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MEAN = 0.25  # of the tolerance
BEYOND = 0.01  # of the tokens
# float32 differs by up to 2e-5 between kernels. In 16 bits a logit of 10 is itself known to 1/32 only: log-probs differ
# by hundredths, where a missing soft cap or weights of a step before differ by tenths.
TOLERANCE, TOLERANCE_16_BIT = 1e-3, 0.1


class EngineMismatch(RuntimeError):
    """The engine's log-probs are not the trainer's: it does not hold the trainer's policy, or not its precision."""


@dataclass(frozen=True)
class Agreement:
    """largest, mean: of the differences, in nats. high: what all but one token in a hundred are at or below.
    completion, token: where the largest is."""

    largest: float
    mean: float
    high: float
    completion: int
    token: int

    def within(self, tolerance: float) -> bool:
        """False also for differences that are not finite."""
        return self.high <= tolerance and self.mean <= MEAN * tolerance and math.isfinite(self.largest)


def default_tolerance(dtype: str) -> float:
    """Of a precision, by its name in torch."""
    return TOLERANCE if dtype == "float32" else TOLERANCE_16_BIT


def measure(reported: Sequence[Tensor], low: Sequence[Tensor], high: Sequence[Tensor]) -> Agreement:
    """How far log-probs are outside of [low, high]; each a list of [t], one for each completion.

    Raises ValueError where there is nothing to compare, or where shapes differ.
    """
    if not reported or not len(reported) == len(low) == len(high):
        raise ValueError(f"verify: {len(reported)} completions, {len(low)} rows of log-probs")
    for i, (own, least, most) in enumerate(zip(reported, low, high)):
        if not own.shape == least.shape == most.shape:
            raise ValueError(
                f"verify: completion {i} has {tuple(own.shape)} tokens, the trainer's log-probs {tuple(least.shape)}"
            )
    gaps = [_outside(*rows) for rows in zip(reported, low, high)]
    flat = torch.cat(gaps)
    if not len(flat):
        raise ValueError(f"verify: {len(reported)} completions without a token")
    worst = max(range(len(gaps)), key=lambda i: float(gaps[i].max()) if len(gaps[i]) else -1.0)
    ordered = flat.sort(descending=True).values
    return Agreement(
        float(ordered[0]),
        float(flat.mean()),
        float(ordered[int(BEYOND * len(flat))]),
        worst,
        int(gaps[worst].argmax()),
    )


def _outside(own: Tensor, low: Tensor, high: Tensor) -> Tensor:
    own, low, high = (x.detach().cpu().float() for x in (own, low, high))
    gap = torch.maximum(low - own, own - high).clamp(min=0)
    return torch.where(gap.isnan(), math.inf, gap)
