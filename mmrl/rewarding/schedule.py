"""Which samples of a group are compared with which: pairs of their numbers, without repetition."""

from __future__ import annotations

import random
from itertools import combinations

Pairs = list[tuple[int, int]]


def round_robin(count: int) -> Pairs:
    """Every pair, the sample of the lower number first."""
    return list(combinations(range(count), 2))


def regular(count: int, neighbours: int, seed: int) -> Pairs:
    """Each sample with `neighbours` others, drawn by the seed, so that all are connected.

    Where count * neighbours is odd, one sample has one more; from count - 1 neighbours on, it is every pair. The number
    of times that a sample comes first and second differs by at most one where `neighbours` is even, or is every pair.
    Raises ValueError for fewer than 2 neighbours, which connect no more than two samples.

    The samples are put on a circle in random order, and each is paired with those at some distances along it, 1 among
    them: a circulant graph, which is regular and, for the distance 1, connected.
    """
    if neighbours < 2:
        raise ValueError(f"neighbours={neighbours}: 2 or more are needed to connect the samples")
    if count < 2:
        return []
    draw = random.Random(seed)
    circle = draw.sample(range(count), count)
    neighbours = min(neighbours, count - 1)
    farthest = (count - 1) // 2  # where both ways round are of different lengths
    whole, odd = divmod(neighbours, 2)
    kept = odd and count % 2  # the farthest distance is then for the last neighbour
    distances = [1, *draw.sample(range(2, farthest + (not kept)), whole - 1)] if whole else []
    pairs = [(k, (k + d) % count) for d in distances for k in range(count)]
    if kept:
        pairs += [(k, k + farthest) for k in range(farthest + 1)]
    elif odd:
        pairs += [(k, k + count // 2) for k in range(count // 2)]
    return [(circle[i], circle[j]) for i, j in pairs]
