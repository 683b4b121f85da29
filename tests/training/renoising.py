"""A modality for tests: Flowing whose sampler takes few re-noise steps, which have log-probabilities, with blocks that
heads can read, teachers that solve the ODE, and records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from flowing import SIZE, STEPS, Flowing
from torch import Tensor

from mmrl.core import flow_match
from mmrl.seeds import seed_of
from mmrl.types import ActionLogProbs, Group, Prompt, Sample, Slice, Trajectory

TIMES = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
TRAINED = STEPS - 1  # the last one has no noise


class Renoising(Flowing):
    """x' = (1 - t') x0 + t' noise. Samples of a group begin at the same noise."""

    renoises = True

    def _flow(self, prompt: Prompt, index: int, seed: int) -> Sample:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(seed_of(prompt.id)), dtype=torch.float64)
        way, logp = [x[0]], []
        for number in range(STEPS):
            mean, std = self._step(x, torch.tensor([number]), [prompt])
            x = mean + std * torch.randn(1, SIZE, generator=generator, dtype=torch.float64)
            way.append(x[0])
            if number < TRAINED:
                logp.append(_log_density(x, mean, std))
        tensors = {"clean": x[0], "way": torch.stack(way)}
        made = Trajectory(torch.cat(logp).float(), torch.ones(TRAINED, dtype=torch.bool), tensors)
        return Sample(prompt, index, "".join("a" if v > 0 else "b" for v in x[0]), made)

    def _step(self, x: Tensor, number: Tensor, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        now, after = TIMES[number], TIMES[number + 1]
        clean = flow_match.clean_of(x, self.velocity(x, now, prompts), now)
        return (1 - after)[:, None] * clean, after[:, None]

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        way = torch.stack([s.actions.tensors["way"] for s in samples])
        number = columns.repeat(len(samples))
        x, after = way[:, columns].flatten(0, 1), way[:, columns + 1].flatten(0, 1)
        prompts = [s.prompt for s in samples for _ in columns]

        def logp() -> tuple[Tensor, Tensor, Tensor]:
            mean, std = self._step(x, number, prompts)
            return _log_density(after, mean, std).view(len(samples), -1), mean, std

        now, mean, std = logp()
        found = ActionLogProbs(now)
        if reference:
            with torch.no_grad(), self.reference():
                found.logp_reference, other, _ = logp()
            found.kl = ((mean - other) ** 2 / (2 * std**2)).mean(1).view(len(samples), -1)
        return found

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        for rows in torch.arange(len(samples)).split(max(1, budget // TRAINED)) if samples else ():
            yield Slice(rows, torch.arange(TRAINED))

    def block_widths(self, count: int) -> list[int]:
        return [3] * count

    def block_features(
        self, samples: Sequence[Sample], times: Tensor, seeds: Sequence[int], clean: Tensor, count: int
    ) -> list[Tensor]:
        seen = self.velocities(samples, times, seeds, clean=clean)
        x, v = seen.x, seen.velocity
        one = torch.ones_like(x)
        return [torch.stack(three, -1) for three in ((x, v, one), (v.tanh(), x * v, one))][:count]

    @torch.no_grad()
    def solved(self, groups: Sequence[Group], n: int, seed: int, steps: int, guidance: float | None) -> list[Group]:
        return [
            Group(g.prompt, g.index, [self._solved(g.prompt, i, seed_of(seed, g.key, i), steps) for i in range(n)])
            for g in groups
        ]

    def _solved(self, prompt: Prompt, index: int, seed: int, steps: int) -> Sample:
        x = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for time in torch.linspace(1, 0, steps + 1)[:-1]:
            x = x - self.velocity(x, time[None], [prompt]) / steps
        return _ended(prompt, index, x[0])

    def encoded(self, records: Sequence[dict[str, Any]]) -> list[Sample]:
        """Letters of the completion as numbers, repeated."""
        found = []
        for record in records:
            letters = (record["completion"] * SIZE)[:SIZE]
            clean = torch.tensor([ord(letter) - 98.0 for letter in letters], dtype=torch.float64)
            found.append(_ended(Prompt(str(record["id"]), record["prompt"], record), 0, clean))
        return found

    def ends(self, samples: Sequence[Sample]) -> Tensor:
        return torch.stack([s.actions.tensors["clean"] for s in samples])


def _ended(prompt: Prompt, index: int, clean: Tensor) -> Sample:
    nothing = torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    return Sample(prompt, index, None, Trajectory(*nothing, {"clean": clean}))


def _log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (-((x - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)).mean(1)
