"""Objectives that reward samples on their way to noise: pure functions of velocities, no log-probability of a sampler.

Any sampler draws the samples; each is noised anew, x_t = (1 - t) x0 + t eps (mmrl.core.flow_match), and the policy's
velocity there is pushed towards the sample or away from it by its advantage. Shapes: `velocity` (of the policy,
differentiable), `velocity_old` (of the policy that sampled, or its slow copy), `clean` (x0) and `x` (x_t) are
[B, ...]; `t` and `advantage` are [B], `advantage` as any estimator of mmrl.core.advantage makes it. Every objective
returns (loss [B], metrics), the metrics as detached [B] tensors.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.core.flow_match import clean_of, matching_error, wide
from mmrl.core.gate import GATES, clip_flags
from mmrl.core.ratio import ratio

Outcome = tuple[Tensor, dict[str, Tensor]]

# A branch that is nearer to the sample than this is not magnified any further.
LEAST_ERROR = 1e-5


def nft(
    velocity: Tensor,
    velocity_old: Tensor,
    clean: Tensor,
    x: Tensor,
    t: Tensor,
    advantage: Tensor,
    *,
    beta: float = 1.0,
    saturation: float = 5.0,
) -> Outcome:
    """DiffusionNFT (arXiv 2509.16117): s [r L+ + (1 - r) L-] / beta with r = clip(A / s, -1, 1) / 2 + 1 / 2.

    s is `saturation`, the advantage that counts as wholly good. L+ and L- are the errors in x0 of v+ = beta v +
    (1 - beta) v_old and of its mirror image at v_old, v- = (1 + beta) v_old - beta v, each divided by its own detached
    mean |error| in the sample. A good sample pulls v towards itself, a bad one pulls v's mirror image, which pushes v
    away. Where v is v_old the gradient is that of clip(A) L, whatever s and beta; what they decide is how far v goes.
    """
    velocity, old = wide(velocity, velocity_old.detach())
    share = (advantage.to(velocity) / saturation).clamp(-1, 1) / 2 + 0.5
    towards = _clean_error(beta * velocity + (1 - beta) * old, clean, x, t)
    away = _clean_error((1 + beta) * old - beta * velocity, clean, x, t)
    loss = saturation * (share * towards + (1 - share) * away) / beta
    return loss, {"error/towards": towards.detach(), "error/away": away.detach()}


def _clean_error(velocity: Tensor, clean: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """[B]: mean over elements of (x0hat - x0)^2 / sg(mean |x0hat - x0|)."""
    predicted, clean = wide(clean_of(x, velocity, t), clean)
    error = (predicted - clean).flatten(1)
    size = error.detach().double().abs().mean(1).clamp(min=LEAST_ERROR)
    return (error**2).mean(1) / size.to(error)


# ------------------------------------------------------------------ advantage weighted matching

# Name -> the weighted error of a sample from its error of flow matching, its t, and an exponent that some have.
WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "uniform": lambda error, t, power: error,
    "t": lambda error, t, power: t * error,
    "t2": lambda error, t, power: t**2 * error,
    "huber": lambda error, t, power: t * _root(error, 0.5),
    "ghuber": lambda error, t, power: t / power * _root(error, power),
}

# Inside of a root, whose slope has no end at 0.
_EPS = 1e-10


def matching_logp(
    velocity: Tensor, clean: Tensor, noise: Tensor, t: Tensor, *, weighting: str = "uniform", power: float = 0.25
) -> Tensor:
    """[B]: minus the weighted error of flow matching, which stands for a log-probability of the sample.

    weighting: uniform: error; t: t error; t2: t^2 error; huber: t error^(1/2); ghuber: t error^power / power, each root
    shifted to be 0 without error. Raises ValueError for another name.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting={weighting!r} is not known; use {', '.join(WEIGHTINGS)}")
    error = matching_error(velocity, clean, noise)
    return -WEIGHTINGS[weighting](error, t.to(error), power)


def _root(error: Tensor, power: float) -> Tensor:
    return (error + _EPS) ** power - _EPS**power


def awm(logp: Tensor, logp_old: Tensor, advantage: Tensor, algorithm: Algorithm) -> Outcome:
    """Advantage weighted matching (arXiv 2509.25050) in its ratio form, by values of `matching_logp`.

    The loss is that of a policy gradient whose ratio is exp(logp - logp_old), with the gate of `algorithm`: PPO's clip,
    as released. At ratio 1 the gradient is that of -A logp, the matching error weighted by the advantage.
    logp [B] is differentiable; logp_old [B] is that of the policy that sampled, at the same t and noise.
    """
    log_r = logp - logp_old.detach()
    r, advantage = ratio(log_r), advantage.to(logp)
    coefficient = GATES.bind(algorithm.gate)(r, advantage, algorithm) * advantage
    low, high = clip_flags(r, advantage, algorithm)
    loss = -coefficient.detach() * (1 + log_r - log_r.detach())
    return loss, {"ratio/dev": (r - 1).abs(), "clip/low": low.to(logp), "clip/high": high.to(logp)}


__all__ = ["LEAST_ERROR", "WEIGHTINGS", "Outcome", "awm", "matching_logp", "nft"]
