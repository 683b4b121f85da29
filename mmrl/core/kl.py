"""KL divergence of the policy to a reference: sampled estimators (J. Schulman, "Approximating KL divergence",
2020) and the exact one between Gaussians.

An estimator takes (logp, logp_reference), both of actions sampled from the policy, any equal shape, and
returns that shape, differentiable in logp.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmrl.core.ratio import LIMIT


def k1(logp: Tensor, logp_reference: Tensor) -> Tensor:
    """log p - log q: unbiased, of either sign. Meant for the reward: the mean of its gradient is 0."""
    return logp - logp_reference


def k2(logp: Tensor, logp_reference: Tensor) -> Tensor:
    """(log p - log q)^2 / 2: biased, never negative, with the gradient of the true KL on average."""
    return (logp - logp_reference) ** 2 / 2


def k3(logp: Tensor, logp_reference: Tensor) -> Tensor:
    """q/p - log(q/p) - 1: unbiased and never negative (GRPO). log(q/p) is held below 20, so it is finite."""
    gap = (logp_reference - logp).clamp(max=LIMIT)
    return gap.expm1() - gap  # exp(gap) - 1 loses gaps below 1e-4 in float32


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def gaussian(mean: Tensor, mean_ref: Tensor, std: Tensor | float) -> Tensor:
    """Exact KL per element between N(mean, std^2) and N(mean_ref, std^2): (mean - mean_ref)^2 / (2 std^2).

    std broadcasts against the means. The KL of the whole vector is the sum over its elements; a kernel whose
    log-probability is a mean over elements wants their mean.
    """
    return (mean - mean_ref) ** 2 / (2 * std**2)
