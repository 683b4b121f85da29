"""Rollouts by servers: this model's own sampler on other machines, which get its weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.agreement import EngineMismatch
from mmrl.engines.base import Once, here
from mmrl.engines.remote import check_options
from mmrl.engines.rollout_pool import Push, RolloutPool
from mmrl.engines.rollout_wire import Asked, Policy
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families.asked import Source
from mmrl.types import Group, Prompt, Sample

TOLERANCE = {"float32": 1e-4}
TOLERANCE_16_BIT = 0.05


class Elsewhere:
    """config: of the rollouts, as a stage has it. policy: what servers must have alike. push: what is sent, as it is.
    pictures: of a prompt, opened. logprobs: the model's own of samples [n, T], without graph; a mean over latent
    elements."""

    def __init__(
        self,
        config: Callable[[], ModelConfig],
        policy: Policy,
        push: Callable[[], Push],
        pictures: Callable[[Prompt], Sequence[Source]],
        logprobs: Callable[[Sequence[Sample]], Tensor],
    ) -> None:
        self._config, self._push, self._pictures, self._logprobs = config, push, pictures, logprobs
        self._opening = threading.Lock()
        self.pool = RolloutPool(policy, **options_of(config()))

    def push(self, once: Once) -> None:
        """Send the weights as they are. Every process calls. Raises RuntimeError where several processes come without
        what has one of them send."""
        group = torch.distributed
        if once is here and group.is_available() and group.is_initialized() and group.get_world_size() > 1:
            raise RuntimeError("rollouts: several processes share the servers; sample within Adapter.synced(once)")
        self.pool.push(self._push(), once)

    def renew(self) -> None:
        """Other parts are trained from now on."""
        self.pool.renew()

    def rollout(
        self, groups: Sequence[Group], n: int, step: int, seed: int, wanted: frozenset[str]
    ) -> tuple[list[Group], list[int]]:
        """See Adapter.rollout; and of each group the number of the push whose weights drew it."""
        sampling = self._config().sampling.model_dump(mode="json")
        asked = [Asked(g, n, step, seed, sampling, wanted, self._opened(g.prompt)) for g in groups]
        made = self.pool.sample(asked)
        filled = [Group(g.prompt, g.index, samples, g.draw) for g, (samples, _) in zip(groups, made)]
        return filled, [version for _, version in made]

    def _opened(self, prompt: Prompt) -> tuple[Any, ...]:
        with self._opening:
            return tuple(source.image for source in self._pictures(prompt))

    def compare(self, samples: Sequence[Sample]) -> None:
        """Hold the servers' log-probs of the first sample of each group against the model's own, of the same weights.
        Raises EngineMismatch."""
        some = [sample for sample in samples if sample.index == 0 and len(sample.actions.logp)]
        if not some:
            return
        own, theirs = self._logprobs(some), torch.stack([sample.actions.logp for sample in some])
        config = self._config()
        if config.sampling.logp_reduction == "sum":
            own, theirs = (each / some[0].actions.tensors["x"][0].numel() for each in (own, theirs))
        apart = float((own - theirs).abs().max())
        tolerance = config.engine.tolerance or TOLERANCE.get(config.dtype, TOLERANCE_16_BIT)
        if not apart <= tolerance:
            raise EngineMismatch(
                f"the servers' log-probs differ from this model's by up to {apart:.3g} (tolerated are {tolerance:g}). "
                "Likely causes: they run another version of mmrl, torch or diffusers, or another model. Where it is "
                "precision alone, set model.engine.tolerance"
            )

    def close(self) -> None:
        self.pool.close()


class ImageApart:
    """See mmrl.modalities.apart. made: the way to the servers, begun where it is first used."""

    wanted: frozenset[str] = frozenset({"artifact"})

    def __init__(self, made: Callable[[], Elsewhere]) -> None:
        self._made = made
        self._elsewhere: Elsewhere | None = None
        self._steps: dict[int, int] = {}  # training step by the number of a push

    def push(self, step: int, once: Once) -> None:
        elsewhere = self._elsewhere = self._made()
        elsewhere.pool.fleet.flows = True
        self._steps[elsewhere.pool.version + 1] = step
        elsewhere.push(once)

    def rollout(self, group: Group, n: int, step: int, seed: int) -> Group:
        assert self._elsewhere is not None  # pushed to
        (filled,), (version,) = self._elsewhere.rollout([group], n, step, seed, self.wanted)
        for sample in filled.samples:
            sample.version = self._steps[version]
            sample.actions.tensors["versions"] = torch.full((len(sample.actions.logp),), sample.version)
        return filled

    def own(self, samples: Sequence[Sample]) -> None:
        assert self._elsewhere is not None
        self._elsewhere.compare(samples)

    def returned(self) -> bool:
        return self._elsewhere is not None and self._elsewhere.pool.fleet.returned()

    def counts(self) -> dict[str, float]:
        return {} if self._elsewhere is None else self._elsewhere.pool.counts()

    def close(self) -> None:
        if self._elsewhere is not None:
            self._elsewhere.pool.fleet.flows = False


def options_of(config: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of RolloutPool. Raises ValueError for others."""
    known = ("url", "concurrency", "timeout")
    options: Mapping[str, Any] = config.engine.options
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"engine servers has no option {', '.join(unknown)}; it has: {', '.join(known)}")
    check_options("engine servers", options)
    return dict(options)
