"""Levels of prompts from numbers, and how a curriculum moves over them: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from mmrl.seeds import seed_of


def levels(values: Sequence[float], buckets: int | None) -> list[int]:
    """The level of each value, lower ones first: one a different value, or `buckets` of about as many values each.

    Equal values are in one bucket, so that some may be empty: a value with r lower ones among n is in floor(B r / n).
    """
    numbers = np.array(values, dtype=np.float64)
    return levels_of(numbers, cuts(np.sort(numbers), buckets)).tolist()


def cuts(ordered: np.ndarray, buckets: int | None) -> np.ndarray:
    """Where levels part: the numbers, rising, of which as many lie below a value as its level says.

    ordered: all values, rising. Of buckets there is one cut less: as floor(B r / n) is b or more from r = ceil(b n / B)
    on, a value is in bucket b or above where it is larger than the ceil(b n / B)-th of all.
    """
    if buckets is None:
        return ordered[np.concatenate([[True], ordered[1:] > ordered[:-1]])]
    places = -(-np.arange(1, buckets) * len(ordered) // buckets)
    return ordered[places - 1]


def levels_of(values: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """The level of each value."""
    return np.searchsorted(cuts, values, side="left")


def shares(count: int, done: float) -> list[float]:
    """Probabilities of `count` levels when `done` of the way, 0 to 1, is behind: linear in it, never 0.

    Level b of B has ((1 - done) (B - b) + done (b + 1)) / (B (B + 1) / 2): at first the easiest is B times as likely as
    the most difficult, at last the other way round, half-way all are alike.
    """
    whole = count * (count + 1) / 2
    return [((1 - done) * (count - level) + done * (level + 1)) / whole for level in range(count)]


def picked(weights: Sequence[float], chance: float) -> int:
    """The place that a chance from [0, 1) picks, each as likely as its weight; one of weight 0 never."""
    left = chance * sum(weights)
    for place, weight in enumerate(weights):
        if left < weight:
            return place
        left -= weight
    return max(place for place, weight in enumerate(weights) if weight > 0)  # rounding


@lru_cache(maxsize=64)
def permutation(size: int, *key: object) -> np.ndarray:
    """[size] int32, a permutation of range(size) that depends on its key alone; not to be written to."""
    generator = torch.Generator().manual_seed(seed_of(*key))
    return torch.randperm(size, generator=generator).to(torch.int32).numpy()
