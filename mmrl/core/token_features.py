"""Numbers of a token from the logits that it was sampled from, for adapters that fill `Batch.features`.

Every function takes (logits [..., V], ids [...]) and returns [...] float32. A token's number depends on its own
logits alone, so logits may be made, used and freed chunk by chunk. Half precision is widened first; logits of -inf
(forbidden tokens) are fine. ids must be valid everywhere: give padding any id, and mask it.
`log_prob` and `entropy` are differentiable; the others are detached.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# The proxy's log-prob of a token that it filtered out: finite, and below that of any token a policy samples.
FILTERED = -1e4


def log_prob(logits: Tensor, ids: Tensor) -> Tensor:
    """log p(id), differentiable."""
    logits = logits.float()
    return _at(logits, ids) - logits.logsumexp(-1)


def entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """-sum p log p in nats, differentiable; the ids do not matter."""
    logp = logits.float().log_softmax(-1)
    # A forbidden token has p = 0 and adds 0, but 0 times -inf would be NaN.
    return -(logp.exp() * logp.masked_fill(logp.isneginf(), 0.0)).sum(-1)


@torch.no_grad()
def proxy_log_prob(logits: Tensor, ids: Tensor, kappa: float = 0.02) -> Tensor:
    """log-prob of the id under the policy without its improbable tokens; -1e4 for an id that is filtered out.

    Min-p filter: tokens with p >= kappa max p stay, renormalised. kappa is Lp-Reg's; in (0, 1].
    """
    if not 0 < kappa <= 1:
        raise ValueError(f"kappa={kappa!r} must be above 0 and at most 1: a share of the largest probability")
    logits = logits.float()
    floor = logits.amax(-1) + math.log(kappa)
    total = logits.masked_fill(logits < floor[..., None], -torch.inf).logsumexp(-1)
    own = _at(logits, ids)
    return torch.where(own >= floor, own - total, FILTERED)


@torch.no_grad()
def prob_gap2(logits: Tensor, ids: Tensor) -> Tensor:
    """|e - p|^2 with e the one-hot vector of the id: the squared gradient of log p(id) by the logits."""
    _, gap = _gap(logits, ids)
    return (gap**2).sum(-1)


@torch.no_grad()
def fisher(logits: Tensor, ids: Tensor) -> Tensor:
    """(e - p)' (diag p - p p') (e - p): the variance under p of the entries of e - p, so no V x V matrix is made."""
    p, gap = _gap(logits, ids)
    mean = (p * gap).sum(-1, keepdim=True)
    return (p * (gap - mean) ** 2).sum(-1)


FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logp": log_prob,
    "entropy": entropy,
    "proxy_logp": proxy_log_prob,
    "prob_gap2": prob_gap2,
    "fisher": fisher,
}


def _gap(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """p and e - p, [..., V]. 1 - p(id) comes from the log-prob: for a sure token the difference would be rounding."""
    logp = logits.float().log_softmax(-1)
    p = logp.exp()
    return p, (-p).scatter(-1, ids[..., None], -_at(logp, ids)[..., None].expm1())


def _at(x: Tensor, ids: Tensor) -> Tensor:
    return x.gather(-1, ids[..., None]).squeeze(-1)
