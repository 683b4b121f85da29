"""A modality for tests: points of the plane, drawn by a flow that is known and so is where it should go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmrl.core import flow_match
from mmrl.modalities.adapter import Adapter
from mmrl.modalities.image import kernels
from mmrl.seeds import seed_of
from mmrl.types import ActionLogProbs, Group, Noised, Prompt, Sample, Slice, Trajectory

STEPS, LEVEL = 6, 0.7
TIMES = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)


class Planar(Adapter):
    """The exact velocity of a normal distribution N(centre, e^(2 spread)), with its three numbers for parameters.

    ode: whether a rollout is Euler's method, whose end is stored; else Flow-SDE, whose steps but the last are stored.
    """

    default_clip = (1e-2, 1e-2)
    provides = frozenset({"reference", "divergence"})

    def __init__(self, config, ode: bool = True) -> None:
        super().__init__(config)
        self.ode = ode
        self.centre = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.spread = nn.Parameter(torch.tensor(-0.7, dtype=torch.float64))

    def velocity(self, x: Tensor, times: Tensor) -> Tensor:
        """E[noise - clean | x] where clean ~ N(centre, s^2) and x = (1 - t) clean + t noise."""
        t, variance = times.to(x)[:, None], (2 * self.spread).exp()
        pull = (t - (1 - t) * variance) / (t**2 + (1 - t) ** 2 * variance)
        return pull * (x - (1 - t) * self.centre) - self.centre

    def _transition(self, x: Tensor, step: int, velocity: Tensor) -> kernels.Transition:
        now, after = TIMES[step], TIMES[step + 1]
        return kernels.flow_sde(x, velocity, now, after, LEVEL, float(TIMES[1]))

    # ---------------------------------------------------------------- sampling

    @torch.no_grad()
    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        seeds = [seed_of(seed, step, g.key, i) for g in groups for i in range(n)]
        drawn = [
            torch.randn(STEPS + 1, 2, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds
        ]
        noise = torch.stack(drawn, 1)
        x, kept = noise[0], []
        for i in range(STEPS):
            velocity = self.velocity(x, TIMES[i].expand(len(x)))
            if self.ode or i == STEPS - 1:
                x = x + velocity * (TIMES[i + 1] - TIMES[i])
                continue
            way = self._transition(x, i, velocity)
            after = way.mean + way.std * noise[i + 1]
            kept.append({"x": x, "next": after, "mean": way.mean, "logp": kernels.log_prob(after, way)})
            x = after
        made = [self._trajectory(x, kept, row) for row in range(len(x))]
        samples = [
            Sample(g.prompt, i, " ".join(f"{v:.6f}" for v in x[k * n + i].tolist()), made[k * n + i])
            for k, g in enumerate(groups)
            for i in range(n)
        ]
        return [Group(g.prompt, g.index, samples[k * n : (k + 1) * n]) for k, g in enumerate(groups)]

    @staticmethod
    def _trajectory(x: Tensor, kept: Sequence[dict[str, Tensor]], row: int) -> Trajectory:
        if not kept:
            return Trajectory(torch.zeros(0), torch.zeros(0, dtype=torch.bool), {"clean": x[row]})
        columns = {key: torch.stack([step[key][row] for step in kept]) for key in kept[0]}
        return Trajectory(columns.pop("logp").float(), torch.ones(len(kept), dtype=torch.bool), columns)

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        return self.rollout([Group(p, i) for i, p in enumerate(prompts)], n, 0, seed)

    # ---------------------------------------------------------------- what learns asks

    def velocities(self, samples, times, seeds, clean=None, guidance=None) -> Noised:
        if not samples:
            return Noised(*(torch.zeros(0, 2) for _ in range(4)))
        clean = torch.stack([s.actions.tensors["clean"] for s in samples])
        drawn = [torch.randn(2, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
        noise = torch.stack(drawn)
        x = flow_match.noised(clean, noise, times)
        return Noised(clean, noise, x, self.velocity(x, times))

    def sampler_times(self) -> Tensor:
        return TIMES[:-1]

    def logprobs(self, samples, columns, reference=False, entropy=False) -> ActionLogProbs:
        found = []
        for step in columns.tolist():
            x, after, mean = (torch.stack([s.actions.tensors[k][step] for s in samples]) for k in ("x", "next", "mean"))
            way = self._transition(x, step, self.velocity(x, TIMES[step].expand(len(x))))
            apart = kernels.gaussian_kl(way.mean, mean, way.std).detach()
            found.append((kernels.log_prob(after, way), apart))
        logp, apart = (torch.stack(some, 1).float() for some in zip(*found))
        return ActionLogProbs(logp=logp, divergence=apart)

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        if samples:
            yield Slice(torch.arange(len(samples)), torch.arange(STEPS - 1))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {"centre": self.centre, "spread": self.spread}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: p.detach().clone() for k, p in self.trainable_parameters().items()}, folder / "flow.safetensors")
