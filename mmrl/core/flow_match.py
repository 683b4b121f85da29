"""Flow matching: the path from data to noise, what a velocity says on it, and the times that are trained.

t in [0, 1], x_t = (1 - t) x0 + t eps, velocity v = eps - x0 (rectified flow, arXiv 2209.03003). Shapes: `clean` (x0),
`noise` (eps), `x` (x_t) and velocities are [B, ...], `t` is [B]. Computed in float32 at least.

TIMES holds distributions of t: (uniform [...] in (0, 1), **options) -> t of the same shape. Each is the inverse of its
cumulative distribution, so that even draws (`stratified`) give even times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core.registry import Registry, above, between, low_first

TIMES = Registry("times")


# ------------------------------------------------------------------ the path


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t eps."""
    clean, noise = wide(clean, noise)
    t = column(t, clean)
    return (1 - t) * clean + t * noise


def target(clean: Tensor, noise: Tensor) -> Tensor:
    """The velocity of the straight path, eps - x0: what a model of velocities is trained towards."""
    clean, noise = wide(clean, noise)
    return noise - clean


def clean_of(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """x0 = x_t - t v: the data that a velocity points away from."""
    x, velocity = wide(x, velocity)
    return x - column(t, x) * velocity


def noise_of(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """eps = x_t + (1 - t) v: the noise that a velocity points to."""
    x, velocity = wide(x, velocity)
    return x + (1 - column(t, x)) * velocity


def velocity_of_clean(x: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """v = (x_t - x0) / t. Raises ValueError at t = 0, where x_t is x0 and says nothing of the noise."""
    x, clean = wide(x, clean)
    if bool((t <= 0).any()):
        raise ValueError("a velocity cannot be told from x0 at t = 0, where x_t is x0; take t above 0")
    return (x - clean) / column(t, x)


def velocity_of_noise(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """v = (eps - x_t) / (1 - t). Raises ValueError at t = 1, where x_t is eps and says nothing of the data."""
    x, noise = wide(x, noise)
    if bool((t >= 1).any()):
        raise ValueError("a velocity cannot be told from eps at t = 1, where x_t is eps; take t below 1")
    return (noise - x) / (1 - column(t, x))


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Mean over elements of (one - other)^2, [B]; differentiable in both."""
    one, other = wide(one, other)
    return ((one - other) ** 2).flatten(1).mean(1)


def matching_error(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """The error of flow matching, mean over elements of (v - (eps - x0))^2, [B]."""
    return distance(velocity, target(clean, noise))


# ------------------------------------------------------------------ the times


def shifted(t: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t): times pushed towards noise by s > 1, as samplers do (arXiv 2403.03206, equation 23)."""
    return shift * t / (1 + (shift - 1) * t)


@TIMES.add("uniform", low=between(0, 1), high=between(0, 1), shift=above(0), check=low_first)
def uniform(u: Tensor, *, low: float = 0.0, high: float = 1.0, shift: float = 1.0) -> Tensor:
    """Even between `low` and `high`, then shifted."""
    return shifted(low + (high - low) * u, shift)


@TIMES.add("logit_normal", std=above(0), shift=above(0))
def logit_normal(u: Tensor, *, mean: float = 0.0, std: float = 1.0, shift: float = 1.0) -> Tensor:
    """sigmoid(n), n normal, then shifted: the middle of the path more often than its ends (arXiv 2403.03206)."""
    return shifted(torch.sigmoid(mean + std * torch.special.ndtri(u)), shift)


def stratified(u: Tensor) -> Tensor:
    """Draws [..., K] in (0, 1) as one draw from each K-th of it: (k + u_k) / K. Each is uniform taken at random."""
    count = u.shape[-1]
    return (torch.arange(count, dtype=u.dtype, device=u.device) + u) / count


# ------------------------------------------------------------------ shapes


def wide(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, or in float64 where one is. Raises ValueError for different shapes, which would broadcast."""
    if one.shape != other.shape:
        raise ValueError(f"tensors of {list(one.shape)} and {list(other.shape)}: samples must have the same shape")
    dtype = torch.float64 if torch.float64 in (one.dtype, other.dtype) else torch.float32
    return one.to(dtype), other.to(dtype)


def column(values: Tensor, like: Tensor) -> Tensor:
    """One number a sample, [B], as [B, 1, ...] with the type and the dimensions of `like`."""
    if values.shape != like.shape[:1]:
        raise ValueError(f"t of {list(values.shape)}: expected one number for each of {len(like)} samples")
    return values.to(like).view(-1, *[1] * (like.ndim - 1))
