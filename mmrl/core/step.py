"""The loss of one micro-batch: ratio, gate, weights, KL. Every preset runs through this one function."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core import kl as divergence
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.gate import GATES, clip_flags
from mmrl.core.ratio import log_ratio, ratio
from mmrl.core.terms import TERMS
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
    batch: Batch | None = None,
    action_weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a micro-batch, and its metrics.

    replay: what the adapter's replay returned, [b, t]. `log_ratio` replaces logp - logp_old (token level
        only); `weight` scales the policy term of each action, not its KL.
    logp_old: [b, t], log-probs under the policy that the ratio is measured against.
    mask: [b, t] bool; masked entries may hold anything, and they get no gradient.
    advantage: [b], or [b, t] where actions have their own.
    weights: [b, t], these rows and columns of mmrl.core.aggregate.weights. With a sequence-level ratio the
        micro-batch must hold all trained actions of its rows.
    batch: the micro-batch's part (Batch.at) of the update's batch, after mmrl.core.registry.prepared; gates and
        terms that look beyond the micro-batch find there what they prepared.
    action_weight: [b, t], scales the policy term of each action (the product of the algorithm's action weights
        and its rollout correction), not its KL and not the terms.

    The gradient is that of the algorithm's published surrogate. The value is -sum(weights c w A), for a
    clipped gate r A over the actions that keep their gradient, plus the KL and the algorithm's terms. Losses of
    micro-batches add up.

    Returns (scalar, metrics); metrics are detached float64 scalars: sums, but for those in MAXIMA. Each
    term's part of the loss is "term/<name>".
    Raises ValueError where the algorithm needs something that the replay lacks.
    """
    if batch is not None and replay.divergence is not None:
        batch = batch.having(features={"divergence": replay.divergence.detach()})
    log_r = _log_ratio(replay, logp_old, mask, algorithm)
    r = ratio(log_r)
    advantages = _inside(advantage[:, None] if advantage.ndim == 1 else advantage, mask)
    shares = _inside(weights, mask)

    coefficient = GATES.bind(algorithm.gate)(r, advantages, algorithm, batch) * advantages
    for weight in (replay.weight, action_weight):
        if weight is not None:
            coefficient = coefficient * _inside(weight, mask)
    coefficient = coefficient.detach()
    # 1 + log r - sg(log r) is 1 in value and d(log r) in gradient.
    policy = -(shares * coefficient * (1 + log_r - log_r.detach())).sum()
    loss = policy

    divergences = _kl(replay, mask, algorithm)
    if divergences is not None and algorithm.kl_coef > 0 and algorithm.kl_place == "loss":
        loss = loss + algorithm.kl_coef * (shares * divergences).sum()

    terms = _terms(replay, shares, mask, advantages, algorithm, batch)
    for value in terms.values():
        loss = loss + value

    low, high = clip_flags(r, advantages, algorithm, batch)
    metrics = {
        "actions": mask.sum(),
        "policy_loss": policy,
        "ratio/mean": _inside(r, mask).sum(),
        "ratio/max_dev": _inside((r - 1).abs(), mask).max(),
        "clip/low": (low & mask).sum(),
        "clip/high": (high & mask).sum(),
        **terms,
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


def _terms(
    replay: ActionLogProbs, shares: Tensor, mask: Tensor, advantages: Tensor, algorithm: Algorithm, batch: Batch | None
) -> dict[str, Tensor]:
    """ "term/<name>" -> scalar, differentiable, for every term of the algorithm."""
    found: dict[str, Tensor] = {}
    for hook in algorithm.terms:
        if batch is None:
            raise ValueError(f"term {hook.name!r} reads the batch; give policy_loss the micro-batch's Batch.at")
        missing = [name for name in TERMS[hook.name].needs if name not in {*batch.features, *batch.columns}]
        if missing:
            hint = "ask for the reference policy" if "logp_reference" in missing else "the modality must supply it"
            raise ValueError(f"term {hook.name!r} needs {', '.join(missing)}, which the batch lacks; {hint}")
        found[f"term/{hook.name}"] = TERMS.bind(hook)(replay, shares, mask, advantages, batch)
    return found


def _inside(x: Tensor, mask: Tensor) -> Tensor:
    """`x`, at least float32, 0 where the mask is False, so that no padding reaches a sum or a gradient."""
    return torch.where(mask, x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, 0.0)
