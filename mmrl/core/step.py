"""The loss of one micro-batch: ratio, gate, weights, KL. Every preset runs through this one function."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core import kl as divergence
from mmrl.core.algorithm import Algorithm
from mmrl.core.gate import GATES, clip_flags
from mmrl.core.ratio import log_ratio, ratio
from mmrl.types import ActionLogProbs

# How the metrics of micro-batches and ranks are put together: MAXIMA by their maximum, everything else by its
# sum; afterwards PER_ACTION are divided by "actions".
MAXIMA = frozenset({"ratio/max_dev"})
PER_ACTION = frozenset({"ratio/mean", "clip/low", "clip/high", "kl", "entropy"})


def policy_loss(
    replay: ActionLogProbs,
    logp_old: Tensor,
    mask: Tensor,
    advantage: Tensor,
    weights: Tensor,
    algorithm: Algorithm,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a micro-batch, and its metrics.

    replay: what the adapter's replay returned, [b, t]. `log_ratio` replaces logp - logp_old (token level
        only); `weight` scales the policy term of each action, not its KL.
    logp_old: [b, t], log-probs under the policy that the ratio is measured against.
    mask: [b, t] bool; masked entries may hold anything, and they get no gradient.
    advantage: [b], or [b, t] where actions have their own.
    weights: [b, t], these rows and columns of mmrl.core.aggregate.weights. With a sequence-level ratio the
        micro-batch must hold all trained actions of its rows.

    The gradient is that of the algorithm's published surrogate. The value is -sum(weights c w A), for a
    clipped gate r A over the actions that keep their gradient, plus the KL term. Losses of micro-batches add
    up.

    Returns (scalar, metrics); metrics are detached float64 scalars: sums, but for those in MAXIMA.
    Raises ValueError where the algorithm needs something that the replay lacks.
    """
    log_r = _log_ratio(replay, logp_old, mask, algorithm)
    r = ratio(log_r)
    advantages = _inside(advantage[:, None] if advantage.ndim == 1 else advantage, mask)
    action_weight = 1.0 if replay.weight is None else _inside(replay.weight, mask)
    shares = _inside(weights, mask)

    coefficient = (GATES[algorithm.gate](r, advantages, algorithm) * action_weight * advantages).detach()
    # 1 + log r - sg(log r) is 1 in value and d(log r) in gradient.
    policy = -(shares * coefficient * (1 + log_r - log_r.detach())).sum()
    loss = policy

    divergences = _kl(replay, mask, algorithm)
    if divergences is not None and algorithm.kl_coef > 0 and algorithm.kl_place == "loss":
        loss = loss + algorithm.kl_coef * (shares * divergences).sum()

    low, high = clip_flags(r, advantages, algorithm)
    metrics = {
        "actions": mask.sum(),
        "policy_loss": policy,
        "ratio/mean": _inside(r, mask).sum(),
        "ratio/max_dev": _inside((r - 1).abs(), mask).max(),
        "clip/low": (low & mask).sum(),
        "clip/high": (high & mask).sum(),
    }
    if divergences is not None:
        metrics["kl"] = divergences.sum()
    if replay.entropy is not None:
        metrics["entropy"] = _inside(replay.entropy, mask).sum()
    return loss, {name: value.detach().double() for name, value in metrics.items()}


def _log_ratio(replay: ActionLogProbs, logp_old: Tensor, mask: Tensor, algorithm: Algorithm) -> Tensor:
    if replay.log_ratio is None:
        return log_ratio(replay.logp, logp_old, mask, algorithm.ratio)
    if algorithm.ratio != "token":
        raise ValueError(
            f"the adapter gives a log_ratio per action, which ratio={algorithm.ratio!r} cannot use: "
            "set ratio='token', or turn off the adapter's ratio correction"
        )
    return log_ratio(replay.log_ratio, torch.zeros_like(replay.log_ratio), mask, "token")


def _kl(replay: ActionLogProbs, mask: Tensor, algorithm: Algorithm) -> Tensor | None:
    """[b, t], 0 where masked; None where the replay has no reference and the loss needs none."""
    name = algorithm.kl_estimator
    given = replay.kl if name == "exact" else replay.logp_reference
    if given is not None:
        if name == "exact":
            return _inside(given, mask)
        return divergence.ESTIMATORS[name](_inside(replay.logp, mask), _inside(given.detach(), mask))
    if algorithm.kl_coef > 0 and algorithm.kl_place == "loss":
        missing, other = ("kl", "k3") if name == "exact" else ("logp_reference", "exact")
        raise ValueError(
            f"kl_estimator={name!r} needs `{missing}`, which the adapter's logprobs did not return: "
            f"ask for it with reference=True, set kl_estimator={other!r} if the adapter has that, or kl_coef=0"
        )
    return None


def _inside(x: Tensor, mask: Tensor) -> Tensor:
    """`x`, at least float32, 0 where the mask is False, so that no padding reaches a sum or a gradient."""
    return torch.where(mask, x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, 0.0)
