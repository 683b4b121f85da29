"""Pictures noised anew and made anew: what objectives on the forward process, and distillation, ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrl.core import flow_match
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.blocks import caught, spread
from mmrl.modalities.image.sampling import Run, Sampler
from mmrl.types import Noised, Sample


class Forward:
    """Noises what `sampler` drew. Without a second forward for guidance: the velocity is the conditional model's, and a
    guided sample teaches it what guidance does."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.family = sampler.family

    def __call__(
        self,
        samples: Sequence[Sample],
        times: Tensor,
        seeds: Sequence[int],
        run: Run,
        clean: Tensor | None = None,
        guidance: float | None = None,
    ) -> Noised:
        """See Adapter.velocities; the samples are of a rollout `run`. guidance: that of a second forward, too; None: of
        none. Raises Unsupported for what cannot be had."""
        self._refuse_no_flow()
        self._refuse_no_guidance(guidance)
        stored = bool(samples) and all("clean" in sample.actions.tensors for sample in samples)
        if clean is None and not stored and run.plan is not None and run.plan.trained:
            raise Unsupported(
                "model.sampling.plan stores steps and not the picture's latent, which a forward_process stage noises "
                "anew; set model.sampling.plan, or the stage's sampling.plan, to {name: untrained}"
            )
        shape, device = self.family.latent_shape(run.size), self.family.device
        if not samples:
            return Noised(*(torch.zeros(0, *shape, device=device) for _ in range(4)))
        if clean is None:
            clean = torch.stack([sample.actions.tensors["clean"] for sample in samples])
        clean = clean.to(device)
        noise = torch.stack([_normal(shape, seed) for seed in seeds]).to(device)
        times = times.to(device)
        x = flow_match.noised(clean, noise, times)
        asked = [self.sampler.asked(sample.prompt) for sample in samples]
        condition = self.sampler.conditions(asked, run.size)
        scales = run.scales if guidance is None else run.scales._replace(guidance=guidance)
        against = None if guidance is None else self.sampler.unconditional(asked, scales, run.size)
        velocity, _ = self.sampler.policy.predict(x, 1000 * times, condition, scales, run.size, against)
        return Noised(clean, noise, x, velocity)

    def features(
        self, samples: Sequence[Sample], times: Tensor, seeds: Sequence[int], run: Run, clean: Tensor, count: int
    ) -> list[Tensor]:
        """See Adapter.block_features."""
        blocks = spread(self.family, count)
        with caught(blocks) as found:
            self(samples, times, seeds, run, clean)
        if any(len(some) > 1 for some in found):  # rows of other texts, or pictures beside them, are told one by one
            alone = [
                self.features([sample], times[row, None], [seeds[row]], run, clean[row, None], count)
                for row, sample in enumerate(samples)
            ]
            return [torch.cat(some) for some in zip(*alone)]
        return [self.family.of_picture(block, tokens, run.size) for block, [tokens] in zip(blocks, found)]

    def sampler_times(self, run: Run) -> Tensor:
        """[steps]: the noise levels from which the steps of a rollout `run` go. Raises Unsupported for no flow."""
        self._refuse_no_flow()
        return self.sampler.schedule(run.steps, run.size).level[:-1].float()

    def generated(self, samples: Sequence[Sample], places: Tensor, run: Run) -> Tensor:
        """See Adapter.generated: x0 at one of the latents that the rollout `run` stored, or went to last, guided as
        there. Raises Unsupported for what stores none."""
        self._refuse_no_flow()
        if run.plan is not None and not run.plan.trained and not run.plan.boundaries:
            raise Unsupported(
                "model.sampling.plan stores the picture's latent and none on the way, where a distill stage makes it "
                "anew; set model.sampling.plan, or the stage's sampling.plan, to {name: full}, or to {name: untrained, "
                "boundaries: true} for the ODE"
            )
        device, schedule = self.family.device, self.sampler.schedule(run.steps, run.size)
        if not samples:
            return torch.zeros(0, *self.family.latent_shape(run.size), device=device)
        way = [_way(sample, run.steps) for sample in samples]
        chosen = [one[int(place * len(one))] for one, place in zip(way, places.tolist())]
        x = torch.stack([latent for latent, _ in chosen]).to(device)
        index = torch.tensor([step for _, step in chosen], device=device)
        asked = [self.sampler.asked(sample.prompt) for sample in samples]
        condition = self.sampler.conditions(asked, run.size)
        against = self.sampler.unconditional(asked, run.scales, run.size)
        time, level = (values.to(device)[index].float() for values in (schedule.time, schedule.level))
        velocity, _ = self.sampler.policy.predict(x, time, condition, run.scales, run.size, against)
        return flow_match.clean_of(x, velocity, level)

    def levels(self, run: Run) -> Tensor:
        """See Adapter.levels: of all steps of the schedule. Raises Unsupported where some are not stored."""
        self._refuse_no_flow()
        plan = run.plan
        if plan is not None and not plan.boundaries and len(plan.trained) < run.steps - 1:
            raise Unsupported(
                f"model.sampling.plan stores {len(plan.trained)} of {run.steps} steps, where a distill stage asks for "
                "all of them; set {name: untrained, boundaries: true}, or {name: full} with the kernel renoise"
            )
        return self.sampler.schedule(run.steps, run.size).level[1:].float()

    def _refuse_no_guidance(self, guidance: float | None) -> None:
        if self.family.guidance == "none" and guidance is not None and guidance > self.family.guidance_off:
            raise Unsupported(
                f"guidance {guidance:g} of a teacher: this model of family {self.family.name} is distilled to sample "
                "without it; leave the stage's `guidance` out"
            )

    def _refuse_no_flow(self) -> None:
        if not self.family.is_flow:
            raise Unsupported(
                f"family {self.family.name} predicts no velocity of a straight path to noise: forward_process and "
                "distill stages train flow models"
            )


def _way(sample: Sample, steps: int) -> list[tuple[Tensor, int]]:
    """(latent, step that goes on from it) of what is stored, and of where the last stored step led."""
    kept = sample.actions.tensors
    found = list(zip(kept["x"], kept["step"].tolist()))
    last = found[-1][1] + 1
    return found if last == steps else [*found, (kept["x_next"][-1], last)]


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
