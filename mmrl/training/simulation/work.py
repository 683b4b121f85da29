"""What a step of a run has to do, and how it is laid out over GPUs: numbers alone."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import NormalDist

_MEAN_OF_GUMBEL = math.exp(-0.5772156649)  # -ln of its distribution function at its mean


@dataclass(frozen=True)
class Work:
    """Of a stage that samples. Bytes and operations are those of the real model, counted on shapes.

    groups, samples: prompts of a step over all processes, and samples of each. micro_batch: samples of a micro-batch.
    together: samples that a process draws together. forwards: of one sample's rollout, one after the other, at most;
    varied: whether answers end early. forward_flops: of one row's forward in a rollout. prompt_flops: of a prompt's.
    update_flops: of a sample's forward and backward. weights: bytes that a forward reads and a copy for an engine has.
    blocks, block, around: how many blocks are gathered one by one, the bytes of one, and of what is around them.
    narrow: what is left of them in 16 bits. gradients: bytes of all gradients. optimizer: bytes that one step of the
    optimizer reads and writes.
    """

    groups: int
    samples: int
    micro_batch: float
    together: int
    forwards: int
    varied: bool
    forward_flops: float
    prompt_flops: float
    update_flops: float
    weights: float
    blocks: int
    block: float
    around: float
    gradients: float
    optimizer: float
    narrow: float = 0.5

    def times(self, factor: int) -> Work:
        """The same on so many times the prompts."""
        return dataclasses.replace(self, groups=self.groups * factor)


@dataclass(frozen=True)
class Layout:
    """gpus: of the trainer, and engines' where there are some. shards: GPUs that share a copy of the weights. late:
    gradients are summed once an update. half: weights are gathered in 16 bits. engines: GPUs that only sample, while
    the others train (0: all do one after the other).
    """

    gpus: int
    shards: int = 1
    late: bool = False
    half: bool = False
    engines: int = 0

    @property
    def trainers(self) -> int:
        return self.gpus - self.engines

    @property
    def copies(self) -> int:
        return self.trainers // self.shards


def longest(count: float, most: int, mean: float, spread: float) -> float:
    """What the longest of so many answers has to be expected to take, in forwards.

    Lengths are log-normal with this mean over `most`, and this standard deviation over their mean, cut at `most`. The
    mean of the largest of n draws is taken to be their quantile exp(-exp(-g) / n), g being Euler's constant: that of
    Gumbel's law, to which such maxima go (Fisher and Tippett 1928); of one draw it is the mean.
    """
    if spread == 0 or count <= 1:
        return mean * most
    sigma = math.sqrt(math.log1p(spread**2))
    middle = math.log(mean * most) - sigma**2 / 2
    drawn = math.exp(middle + sigma * NormalDist().inv_cdf(math.exp(-_MEAN_OF_GUMBEL / count)))
    return min(float(most), max(mean * most, drawn))
