"""Samples that part at one step each: ways of the ODE, and what leaves them at every trained step (TempFlow-GRPO)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from mmrl.modalities.image.families.asked import Condition
from mmrl.modalities.image.kernels import sample
from mmrl.modalities.image.sampling import Noise, Run, Sampler, trajectories
from mmrl.types import Group, Prompt, Sample

# What the denoiser is told of some prompts, and what its unconditional branch is, if there is one.
Told = tuple[Condition, Condition | None]


class Branches:
    """Samples of `sampler`'s policy that are the ODE but for one step."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.policy = sampler.policy

    @torch.no_grad()
    def __call__(self, groups: Sequence[Group], n: int, ways: Sequence[Sequence[Noise]], run: Run) -> list[list[Group]]:
        """The groups with n samples at each trained step of `run`; ways: the noises of those that leave each way.

        A way is the ODE from the first of them; it is computed once for all.
        """
        assert run.plan is not None
        sampler, width = self.sampler, len(ways[0]) if ways else 1
        prompts = [group.prompt for group in groups for _ in range(n // width)]
        at_once = max(1, sampler.config.rollout_batch // width)
        found: list[list[Sample]] = [[] for _ in run.plan.trained]
        for start in range(0, len(prompts), at_once):
            rows = slice(start, start + at_once)
            for samples, (ends, kept) in zip(found, self._leave(prompts[rows], ways[rows], run)):
                owners = [prompt for prompt in prompts[rows] for _ in range(width)]
                ways_kept = trajectories([kept], len(owners))
                samples += sampler.made(owners, count(len(samples)), ends, ways_kept, run, n)
        return [
            [replace(group, samples=samples[i * n : (i + 1) * n]) for samples in found]
            for i, group in enumerate(groups)
        ]

    def _leave(
        self, prompts: Sequence[Prompt], ways: Sequence[Sequence[Noise]], run: Run
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """(finished latents, what is stored) of the samples that leave at each trained step, way by way."""
        assert run.plan is not None
        policy, family, width = self.policy, self.sampler.family, len(ways[0])
        shape, schedule = family.latent_shape(run.size), self.sampler.schedule(run.steps, run.size)
        one, all_of_them = self._told(prompts, run), self._told([p for p in prompts for _ in range(width)], run)
        tag = self.sampler.tag() if one[1] is not None and not policy.both_branches else None
        latents = torch.stack([noises[0].start(shape) for noises in ways]).to(family.device)
        for i in range(max(run.plan.trained) + 1):
            output, empty, index = self._predicted(latents, i, one, run)
            if i in run.plan.trained:
                before, output_of, at = (_each(value, width) for value in (latents, output, index))
                way = policy.transition(before, output_of, schedule, at)
                draw = torch.stack([noise.next(shape) for noises in ways for noise in noises]).to(before.device)
                after = sample(way, draw, policy.storage)
                unconditional = None if empty is None else _each(empty, width)
                kept = self.sampler.keep(before, after, way, at, unconditional, tag)
                yield self._finished(after, i + 1, all_of_them, run), kept
            latents = self._without_noise(latents, output, index, run)

    def _finished(self, latents: Tensor, start: int, told: Told, run: Run) -> Tensor:
        """The ends of the ODE from before step `start` on."""
        for i in range(start, run.steps):
            output, _, index = self._predicted(latents, i, told, run)
            latents = self._without_noise(latents, output, index, run)
        return latents

    def _told(self, prompts: Sequence[Prompt], run: Run) -> Told:
        asked = [self.sampler.asked(prompt) for prompt in prompts]
        return (
            self.sampler.conditions(asked, run.size),
            self.sampler.unconditional(asked, run.scales, run.size),
        )

    def _predicted(self, latents: Tensor, i: int, told: Told, run: Run) -> tuple[Tensor, Tensor | None, Tensor]:
        """(output, its unconditional part, the step's index for each row)."""
        time = self.sampler.schedule(run.steps, run.size).time[i].float().to(latents.device).expand(len(latents))
        output, empty = self.policy.predict(latents, time, told[0], run.scales, run.size, told[1])
        return output, empty, torch.full((len(latents),), i, device=latents.device)

    def _without_noise(self, latents: Tensor, output: Tensor, index: Tensor, run: Run) -> Tensor:
        schedule = self.sampler.schedule(run.steps, run.size)
        way = self.policy.transition(latents, output, schedule, index, stochastic=False)
        return way.mean.to(self.policy.storage).float()


def _each(values: Tensor, width: int) -> Tensor:
    """Every row so many times, one behind the other."""
    return values.repeat_interleave(width, dim=0)
