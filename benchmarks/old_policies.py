"""What holds DiffusionNFT back from too far a step: the policy that samples, the learning rate, and times, on a plane.

    python benchmarks/old_policies.py

A velocity field of 20,000 weights is trained on eight modes on a circle; two of them earn 1 and the others a quarter,
less the farther from a mode. Each side takes 60 steps of 24 groups x 16 samples, drawn in six steps of Euler's method
and trained at four times each. Printed: the reward and the share of samples near a mode in ten steps, before and after,
and the error of flow matching on the last samples. About a minute. README.md says what it shows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmrl.config import FollowConfig
from mmrl.core import flow_match
from mmrl.core.forward_process import nft

STEPS, GROUPS, SAMPLES, DRAWS = 60, 24, 16, 4
EULER, EVALUATION = 6, 10
MODES = 2 * torch.stack([torch.cos(torch.arange(8) * math.pi / 4), torch.sin(torch.arange(8) * math.pi / 4)], 1)


class Field(nn.Module):
    """Velocity [n, 2] of x [n, 2] at times [n]."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        sizes = [2 + 9, width, width, width]
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = [wave(k * math.pi * t) for k in (1, 2, 4, 8) for wave in (torch.sin, torch.cos)]
        return self.layers(torch.cat([x, torch.stack([t, *waves], 1)], 1))


def pretrained(steps: int = 2500) -> Field:
    torch.manual_seed(0)
    model = Field()
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(steps):
        clean = MODES[torch.randint(8, (512,))] + 0.12 * torch.randn(512, 2)
        noise, t = torch.randn_like(clean), torch.rand(512)
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps) + 1e-5
        optimizer.zero_grad()
        flow_match.matching_error(model(flow_match.noised(clean, noise, t), t), clean, noise).mean().backward()
        optimizer.step()
    return model


@torch.no_grad()
def drawn(model: Field, count: int, steps: int) -> Tensor:
    x = torch.randn(count, 2)
    for step in range(steps):
        x = x - model(x, torch.full((count,), 1 - step / steps)) / steps
    return x


def rewards(x: Tensor) -> Tensor:
    """[n]: 1 at two modes, a quarter at the others, less beside them."""
    distance, mode = torch.cdist(x, MODES).min(1)
    return torch.exp(-((distance / 0.3) ** 2)) * torch.where(mode < 2, 1.0, 0.25)


def scored(model: Field) -> tuple[float, float]:
    """(mean reward, share of samples near a mode)."""
    torch.manual_seed(5)
    x = drawn(model, 2000, EVALUATION)
    return float(rewards(x).mean()), float((torch.cdist(x, MODES).min(1)[0] < 0.4).float().mean())


@dataclass(frozen=True)
class Side:
    """lr: of Adam, warmed up over `warmup` steps. old: how the policy that samples follows. times: of even draws."""

    lr: float = 3e-3
    warmup: int = 0
    old: FollowConfig = field(default_factory=lambda: FollowConfig(decay=0.5, rise="linear", slope=0.01))
    times: Callable[[Tensor], Tensor] = lambda u: 1 - (u * EULER).floor() / EULER


LAGGING = FollowConfig(decay=0.5)
SIDES = {
    "old rises from the policy itself": Side(),
    "the same, uniform times": Side(times=lambda u: u),
    "the same, a third of the learning rate": Side(lr=1e-3),
    "the same, warmed up over 20 steps": Side(warmup=20),
    "old lags by half from the start": Side(old=LAGGING),
    "the same, uniform times ": Side(old=LAGGING, times=lambda u: u),
    "the same, warmed up over 20 steps ": Side(old=LAGGING, warmup=20),
}


def trained(base: Field, side: Side) -> tuple[Field, float]:
    """(the field, the last error of flow matching)."""
    torch.manual_seed(0)
    model, old = copy.deepcopy(base), copy.deepcopy(base)
    optimizer, error = torch.optim.Adam(model.parameters()), 0.0
    for step in range(STEPS):
        clean = drawn(old, GROUPS * SAMPLES, EULER)
        reward = rewards(clean).view(GROUPS, SAMPLES)
        advantage = ((reward - reward.mean(1, keepdim=True)) / (reward.std() + 1e-4)).flatten().clamp(-5, 5)
        uniform = flow_match.stratified(torch.rand(len(clean), DRAWS))
        t, noise = side.times(uniform).flatten(), torch.randn(len(clean) * DRAWS, 2)
        clean, advantage = (values.repeat_interleave(DRAWS, 0) for values in (clean, advantage))
        x = flow_match.noised(clean, noise, t)
        velocity = model(x, t)
        with torch.no_grad():
            velocity_old = old(x, t)
        error = float(flow_match.matching_error(velocity.detach(), clean, noise).mean())
        optimizer.param_groups[0]["lr"] = side.lr * min(1.0, (step + 1) / max(1, side.warmup))
        optimizer.zero_grad()
        nft(velocity, velocity_old, clean, x, t, advantage)[0].mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(old.parameters(), model.parameters()):
                mine.lerp_(theirs, 1 - side.old.kept(step + 1))
    return model, error


def main() -> None:
    torch.set_num_threads(1)
    base = pretrained()
    print("| side | reward | near a mode | matching error |\n|---|---|---|---|")
    print("| before | {:.2f} | {:.2f} | |".format(*scored(base)), flush=True)
    for name, side in SIDES.items():
        model, error = trained(base, side)
        print("| {} | {:.2f} | {:.2f} | {:.2g} |".format(name.strip(), *scored(model), error), flush=True)


if __name__ == "__main__":
    main()
