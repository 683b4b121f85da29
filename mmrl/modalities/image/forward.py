"""Pictures noised anew, and the policy's velocity there: what objectives on the forward process ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrl.core import flow_match
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.sampling import Run, Sampler
from mmrl.types import Noised, Sample


class Forward:
    """Noises what `sampler` drew. Without a second forward for guidance: the velocity is the conditional model's, and a
    guided sample teaches it what guidance does."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.family = sampler.family

    def __call__(self, samples: Sequence[Sample], times: Tensor, seeds: Sequence[int], run: Run) -> Noised:
        """See Adapter.velocities; the samples are of a rollout `run`. Raises Unsupported for what cannot be had."""
        if not self.family.is_flow:
            raise Unsupported(
                f"family {self.family.name} predicts no velocity of a straight path to noise: forward_process stages "
                "train flow models"
            )
        if run.plan is not None and run.plan.trained:
            raise Unsupported(
                "model.sampling.plan stores steps and not the picture's latent, which a forward_process stage noises "
                "anew; set model.sampling.plan: {name: untrained}"
            )
        shape, device = self.family.latent_shape(run.size), self.family.device
        if not samples:
            return Noised(*(torch.zeros(0, *shape, device=device) for _ in range(4)))
        clean = torch.stack([sample.actions.tensors["clean"] for sample in samples]).to(device)
        noise = torch.stack([_normal(shape, seed) for seed in seeds]).to(device)
        times = times.to(device)
        x = flow_match.noised(clean, noise, times)
        condition = self.sampler.conditions([self.sampler.asked(sample.prompt) for sample in samples], run.size)
        velocity, _ = self.sampler.policy.predict(x, 1000 * times, condition, run.guidance, run.size)
        return Noised(clean, noise, x, velocity)


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
