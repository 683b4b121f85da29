"""Sampling apart from the training: by servers that hold the weights themselves, while the policy here is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mmrl.types import Group, Sample

Once = Callable[[Callable[[], None]], None]


class Apart(Protocol):
    """What an adapter gives to a stage with `asynchronous`; see Adapter.apart.

    `rollout` is called from many threads; all else from the one that trains, between two updates.
    wanted: what samples bring, as Adapter.wanted, which an evaluation changes meanwhile.
    """

    wanted: frozenset[str]

    def push(self, step: int, once: Once) -> None:
        """Send the weights as they are, of training step `step`. What is sampled meanwhile goes on with them.

        Every process calls it; one of them sends, through `once`."""

    def rollout(self, group: Group, n: int, step: int, seed: int) -> Group:
        """As Adapter.rollout of one group, whole, without the policy here; log-probs are the sampler's own.

        Each sample's `version` is the oldest training step whose weights sampled a part of it; its trajectory's
        `versions` [T] int64 has that of each action, -1 where it was not sampled.
        """

    def own(self, samples: Sequence[Sample]) -> None:
        """Of samples that the weights sampled which the policy has now: the policy's own log-probs, compared with the
        sampler's, which trajectories keep as `logp_sampler`. Raises what stops the run where they are too far off."""

    def returned(self) -> bool:
        """Whether a server that was lost answers again, and needs a push."""

    def counts(self) -> dict[str, float]:
        """Numbers of the servers, for the row of metrics: what is now, or has been so far."""

    def close(self) -> None:
        """Nothing will be sampled apart any more; what is under way is given up."""
