"""Losses on the scores of candidates: pairs and longer lists by preference, and single candidates by a given number.

Shapes: P records of up to C candidates. `scores` [P, C] is differentiable; `shares` [P, C] is the preference, with sum
1 in each record; `present` [P, C] bool says which candidates there are (None: all). Every loss is [P], so that a mean
over all processes is the caller's. Of more than two candidates every two that tell something are compared, and a
record's loss is the mean over these; two candidates without a share tell nothing. `plackett_luce` takes them together.

Of two candidates with d = score_0 - score_1 and p = share_0 all of these are
    p * cost(d - margin) + (1 - p) * cost(-d - margin),  cost(x) = -log sigmoid(x),
the Bradley-Terry model, or say in what they differ. -log sigmoid(x) = log(1 + exp(-x)), which others call `logexp`.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

# The quadrature over a normal distribution (see expected_cost): nodes, and how many standard deviations they reach.
NODES, REACH = 129, 8.0


def bradley_terry(
    scores: Tensor, shares: Tensor, present: Tensor | None = None, margin: Tensor | float = 0.0
) -> Tensor:
    """-log sigmoid of the difference to the preferred candidate, less the margin ([P] or a number); ties and soft
    labels count both ways by their shares (Bradley and Terry 1952; as reward model loss arXiv 2203.02155, with a margin
    arXiv 2307.09288)."""
    d, label, known = _compared(scores, shares, present)
    m = _column(margin)
    return _mean(-label * F.logsigmoid(d - m) - (1 - label) * F.logsigmoid(-d - m), known)


def with_ties(
    scores: Tensor,
    shares: Tensor,
    present: Tensor | None = None,
    margin: Tensor | float = 0.0,
    k: float = 5.0,
) -> Tensor:
    """Bradley-Terry with ties (Rao and Kupper 1967): P(0 wins) = sigmoid(d - ln k); equal shares are a third outcome,
    P(tie) = (k^2 - 1) sigmoid(d - ln k) sigmoid(-d - ln k); the three sum to 1.

    Other shares weigh the two wins; the margin is that of a win. Raises ValueError unless k is above 1.
    """
    if not k > 1:
        raise ValueError(f"with_ties: k={k} must be above 1; at 1 no tie could happen")
    d, label, known = _compared(scores, shares, present)
    m, edge = _column(margin), math.log(k)
    win = -label * F.logsigmoid(d - edge - m) - (1 - label) * F.logsigmoid(-d - edge - m)
    tie = -F.logsigmoid(d - edge) - F.logsigmoid(-d - edge) - math.log(k * k - 1)
    return _mean(torch.where(label == 0.5, tie, win), known)


def plackett_luce(
    scores: Tensor, shares: Tensor, present: Tensor | None = None, margin: Tensor | float = 0.0
) -> Tensor:
    """Cross-entropy of the shares and the softmax over all candidates of a record: who is chosen first in the model of
    Luce and Plackett. The candidate in question stands the margin lower. Of two candidates it is `bradley_terry`."""
    present = _all(shares, present)
    m = margin[:, None, None] if isinstance(margin, Tensor) else margin
    own = torch.eye(scores.shape[1], dtype=scores.dtype, device=scores.device) * m
    lowered = (scores[:, None, :] - own).masked_fill(~present[:, None, :], -math.inf)
    chosen = lowered.diagonal(dim1=1, dim2=2).masked_fill(~present, 0.0)
    return (shares * torch.where(present, lowered.logsumexp(2) - chosen, 0.0)).sum(1)


def uncertain(
    scores: Tensor,
    log_std: Tensor,
    shares: Tensor,
    present: Tensor | None = None,
    margin: Tensor | float = 0.0,
) -> Tensor:
    """HPSv3's loss (arXiv 2508.03789): a score is normal with mean `scores` and standard deviation exp(`log_std`), both
    [P, C], and the loss is the expectation of Bradley-Terry's over the difference of two scores.

    The released code takes the mean over 1000 draws in float16, which is this number with noise: of a cost's standard
    deviation / sqrt(1000), 3 % of it, and of the rounding of float16. Here it is integrated (`expected_cost`).
    """
    d, label, known = _compared(scores, shares, present)
    variance = torch.exp(2 * log_std)
    first, second = _places(scores.shape[1], scores.device)
    std = (variance[:, first] + variance[:, second]).sqrt()
    m = _column(margin)
    return _mean(label * expected_cost(d - m, std) + (1 - label) * expected_cost(-d - m, std), known)


def expected_cost(mean: Tensor, std: Tensor) -> Tensor:
    """E[-log sigmoid(z)] of z normal with `mean` and `std`, same shape, by the trapezoidal rule.

    For a smooth function that ends as a normal density does its error falls exponentially with the nodes: it is below
    1e-9 for std up to 5 and 1e-5 up to 10. (Gauss-Hermite puts half of as many nodes where nothing is: 1e-3 at 10.)
    """
    nodes, weights = (x.to(mean) for x in _normal())
    return (-F.logsigmoid(mean[..., None] + std[..., None] * nodes) * weights).sum(-1)


def squared_error(scores: Tensor, values: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean over a record's candidates of (score - value)^2; values [P, C]."""
    return _mean((scores - values) ** 2, _all(values, present))


def cross_entropy(scores: Tensor, values: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean over a record's candidates of the binary cross-entropy of sigmoid(score) and a value in [0, 1]."""
    found = F.binary_cross_entropy_with_logits(scores, values.to(scores), reduction="none")
    return _mean(found, _all(values, present))


def centring(scores: Tensor, present: Tensor | None = None) -> Tensor:
    """(twice the mean of a record's scores)^2, [P]; of two candidates (r_0 + r_1)^2 (arXiv 2312.09244). It pins the
    level of the scores, which no loss of differences does, and leaves their distances."""
    present = _all(scores, present)
    return (2 * _mean(scores, present)) ** 2


def outcome(scores: Tensor, shares: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(share of two candidates of different shares that the scores order as these do, equal scores counting half;
    by how much the preferred one's score is above; whether there are such two), each [P] and without gradient."""
    d, label, known = _compared(scores.detach(), shares, present)
    known = known & (label != 0.5)
    ahead = d * torch.where(label > 0.5, 1.0, -1.0)
    return _mean(torch.heaviside(ahead, ahead.new_tensor(0.5)), known), _mean(ahead, known), known.any(1)


def _compared(scores: Tensor, shares: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(difference of scores, share of the first of two, whether they tell something), each [P, C (C - 1) / 2]."""
    first, second = _places(scores.shape[1], scores.device)
    present = _all(shares, present)
    both = shares[:, first] + shares[:, second]
    known = present[:, first] & present[:, second] & (both > 0)
    label = torch.where(known, shares[:, first] / both.clamp(min=torch.finfo(both.dtype).tiny), 0.5).to(scores)
    return torch.where(known, scores[:, first] - scores[:, second], 0.0), label, known


def _places(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(count, count, 1, device=device)
    return first, second


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """[P, n] -> [P] over what is known; 0 where nothing is."""
    return torch.where(known, values, 0.0).sum(1) / known.sum(1).clamp(min=1)


def _all(like: Tensor, present: Tensor | None) -> Tensor:
    return torch.ones_like(like, dtype=torch.bool) if present is None else present


def _column(margin: Tensor | float) -> Tensor | float:
    """A number of every record, beside [P, n]."""
    return margin[:, None] if isinstance(margin, Tensor) else margin


@cache
def _normal() -> tuple[Tensor, Tensor]:
    """Nodes and weights, with sum 1, of the standard normal distribution, float64."""
    nodes = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64)
    density = torch.exp(-nodes * nodes / 2)
    return nodes, density / density.sum()


__all__ = [
    "bradley_terry",
    "centring",
    "cross_entropy",
    "expected_cost",
    "outcome",
    "plackett_luce",
    "squared_error",
    "uncertain",
    "with_ties",
]
