"""Gates: how an action's ratio scales or cuts its gradient, one small function each, in GATES.

A gate takes (ratio [b, t], advantage [b, t], algorithm, batch, **options), where `batch` is the micro-batch's
Batch or None, and returns the coefficient c [b, t] for which the gradient of the published surrogate is exactly
-c A d(log ratio). The loss uses c detached, so no gate can introduce a gradient of its own. c(1, A) = 1: the first
update after a rollout is REINFORCE, whatever the gate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmrl.core.algorithm import CLIP_BOUND, Algorithm
from mmrl.core.batch import Batch
from mmrl.core.gate_search import HIGH_STEP, LOW_STEP, bounds_of, search_bounds
from mmrl.core.registry import Bound, Registry, above, at_least, between, one_of

GATES = Registry("gate")

_CAP = Bound(lambda v: v >= 1, "1 or more; it caps the ratio itself, so 1 + 0.28 is 1.28")


@GATES.add("ppo")
def ppo(ratio: Tensor, advantage: Tensor, algorithm: Algorithm, batch: Batch | None = None) -> Tensor:
    """min(r A, clip(r, 1-low, 1+high) A): the ratio, or 0 where it has already moved the way A pushes it.

    PPO (arXiv 1707.06347); different bounds on both sides: DAPO (arXiv 2503.14476).
    """
    return _clipped(ratio, advantage, *_clip_range(algorithm))


@GATES.add("two_sided", clip_bound=above(1))
def two_sided(
    ratio: Tensor,
    advantage: Tensor,
    algorithm: Algorithm,
    batch: Batch | None = None,
    *,
    clip_bound: float = CLIP_BOUND,
) -> Tensor:
    """ppo, and 0 too where A < 0 and the ratio is above `clip_bound`, which ppo leaves unbounded.

    Two-sided GRPO (INTELLECT-2, arXiv 2505.07291): min(min(r, bound) A, clip(r) A).
    """
    over = (advantage < 0) & (ratio > clip_bound)
    return torch.where(over, 0.0, ppo(ratio, advantage, algorithm))


@GATES.add("dual_clip", clip_bound=above(1))
def dual_clip(
    ratio: Tensor,
    advantage: Tensor,
    algorithm: Algorithm,
    batch: Batch | None = None,
    *,
    clip_bound: float = CLIP_BOUND,
) -> Tensor:
    """max(min(r A, clip(r) A), bound A) where A < 0, ppo elsewhere (arXiv 1912.09729).

    With a bound above the clip range it is the same function as `two_sided`.
    """
    return two_sided(ratio, advantage, algorithm, clip_bound=clip_bound)


@GATES.add("absolute", low=between(0, 1), high=at_least(1))
def absolute(
    ratio: Tensor,
    advantage: Tensor,
    algorithm: Algorithm,
    batch: Batch | None = None,
    *,
    low: float = 0.0,
    high: float = 10.0,
) -> Tensor:
    """ppo with bounds on the ratio itself, apart from clip_low and clip_high. Lp-Reg's are 0 and 10."""
    return _clipped(ratio, advantage, low, high)


@GATES.add("preclip", limit=above(1))
def preclip(
    ratio: Tensor, advantage: Tensor, algorithm: Algorithm, batch: Batch | None = None, *, limit: float = 1e3
) -> Tensor:
    """ppo of a ratio whose logarithm was held within +-log(limit): 0 beyond it too. StableReinforce (R1-Reward)."""
    beyond = (ratio > limit) | (ratio < 1 / limit)
    return torch.where(beyond, 0.0, ppo(ratio, advantage, algorithm))


@GATES.add("cispo", cap=_CAP)
def cispo(
    ratio: Tensor, advantage: Tensor, algorithm: Algorithm, batch: Batch | None = None, *, cap: float = 5.0
) -> Tensor:
    """min(r, cap): no action loses its gradient. CISPO (MiniMax-M1, arXiv 2506.13585) without a lower bound.

    `cap` bounds the ratio itself, not its distance from 1.
    """
    return ratio.clamp(max=cap)


@GATES.add("sapo", tau_pos=above(0), tau_neg=above(0))
def sapo(
    ratio: Tensor,
    advantage: Tensor,
    algorithm: Algorithm,
    batch: Batch | None = None,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
) -> Tensor:
    """Soft gate: surrogate (4/tau) s(tau (r-1)) A with the logistic s, hence c = 4 s (1-s) r.

    SAPO (arXiv 2511.20347); tau is tau_pos where A > 0 and tau_neg elsewhere.
    """
    tau = torch.full_like(ratio, tau_neg).masked_fill(advantage > 0, tau_pos)
    x = tau * (ratio - 1)
    return 4 * torch.sigmoid(x) * torch.sigmoid(-x) * ratio


@GATES.add("topr", certainty="B", cap=_CAP)
def topr(
    ratio: Tensor, advantage: Tensor, algorithm: Algorithm, batch: Batch | None = None, *, cap: float = 1.0
) -> Tensor:
    """1 where A >= 0, min(r, cap) where A < 0, with the ratio of the whole sequence (ratio "product"): TOPR.

    Answers that are pushed up are learned from as they are; those pushed down only as far as the policy still
    gives them.
    """
    return torch.where(advantage < 0, ratio.clamp(max=cap), 1.0)


@GATES.add("topr_token", certainty="B", cap=_CAP)
def topr_token(
    ratio: Tensor, advantage: Tensor, algorithm: Algorithm, batch: Batch | None = None, *, cap: float = 1.0
) -> Tensor:
    """`topr` with each action's own ratio, ROLL's form of it."""
    return topr(ratio, advantage, algorithm, cap=cap)


def _bounds_widen(*, low_start: float, low_end: float, high_start: float, high_end: float, **_: Any) -> None:
    if low_start > low_end or high_start > high_end:
        raise ValueError(
            f"bounds go from start to end, but low is {low_start:g} to {low_end:g} and high {high_start:g} to "
            f"{high_end:g}; exchange them"
        )


@GATES.add(
    "bapo",
    needs=("advantage", "logp"),
    certainty="B",
    prepare=search_bounds,
    check=_bounds_widen,
    low_start=between(0, 1),
    low_end=between(0, 1),
    high_start=at_least(1),
    high_end=at_least(1),
    low_step=above(0),
    high_step=above(0),
    target=above(0),
    clip_bound=above(1),
    by=one_of("count", "size"),
    only_if={"by": ("released", False)},
)
def bapo(
    ratio: Tensor,
    advantage: Tensor,
    algorithm: Algorithm,
    batch: Batch | None = None,
    *,
    low_start: float = 0.6,
    low_end: float = 0.9,
    high_start: float = 1.2,
    high_end: float = 3.0,
    low_step: float = LOW_STEP,
    high_step: float = HIGH_STEP,
    target: float = 0.5,
    clip_bound: float = CLIP_BOUND,
    by: str = "size",
    released: bool = False,
) -> Tensor:
    """ppo with bounds searched before every update, and dual clip at `clip_bound`: BAPO.

    The bounds widen from their start, `high` first, then `low`, until the actions with A > 0 are at least `target`
    of those that keep a gradient: of their |r A|, their share of the loss, or by "count", of their number. The order
    is recalled.
    released: the published loop, which moves `low` first and wants (sum of the positive clipped surrogates) /
        (negative ones) >= target. Raising `low` makes the negative ones larger, so that loop always runs through.

    Ranges and target are those of its README, the steps those of its example script. Reads the columns "gate_low" and
    "gate_high" [N] of the batch, which mmrl.core.gate_search.search_bounds makes.
    """
    low, high = bounds_of(batch)
    over = (advantage < 0) & (ratio > clip_bound)
    return torch.where(over, 0.0, _clipped(ratio, advantage, low.to(ratio), high.to(ratio)))


@GATES.add("dppo", needs=("divergence",), limit=above(0))
def dppo(
    ratio: Tensor, advantage: Tensor, algorithm: Algorithm, batch: Batch | None = None, *, limit: float = 1e-5
) -> Tensor:
    """The ratio, and 0 where the policy has left the sampler's by a divergence of `limit` and moves on: Flow-DPPO.

    Moving on is r > 1 with A > 0, or r < 1 with A < 0 (arXiv 2606.11025). The bound is on the KL of an action and not
    on its ratio, whose spread depends on the size of a latent. Reads the feature "divergence", which the replay of an
    adapter that `provides` it gives. 1e-5 is UniRL's for the mean over elements; Flow-Factory has 1e-6.
    """
    if batch is None:
        raise ValueError("gate 'dppo' reads the batch's feature 'divergence'; give policy_loss the part of Batch.at")
    onwards = ((advantage > 0) & (ratio > 1)) | ((advantage < 0) & (ratio < 1))
    return torch.where(onwards & (batch.feature("divergence") >= limit), 0.0, ratio)


@GATES.add("none")
def none(ratio: Tensor, advantage: Tensor, algorithm: Algorithm, batch: Batch | None = None) -> Tensor:
    """The ratio itself: the unclipped importance-weighted surrogate r A."""
    return ratio


# Gates that scale every action a little: for them "cut" has no meaning.
SOFT = frozenset({"sapo"})


def clip_flags(
    ratio: Tensor, advantage: Tensor, algorithm: Algorithm, batch: Batch | None = None
) -> tuple[Tensor, Tensor]:
    """(low, high), [b, t] bool: where the gate held the gradient back, with the ratio below or above 1.

    Held back means c < r: to 0 by a clip, to the cap by cispo. Actions with A = 0 have nothing to hold back.
    """
    held = (GATES.bind(algorithm.gate)(ratio, advantage, algorithm, batch) < ratio) & (advantage != 0)
    if algorithm.gate.name in SOFT:
        held = torch.zeros_like(held)
    return held & (ratio < 1), held & (ratio > 1)


def _clipped(ratio: Tensor, advantage: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    cut = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    return torch.where(cut, 0.0, ratio)


def _clip_range(algorithm: Algorithm) -> tuple[float, float]:
    if algorithm.clip_low is None or algorithm.clip_high is None:
        raise ValueError(
            f"gate {algorithm.gate.name!r}: clip_low or clip_high is None; "
            "set both, or call algorithm.with_defaults(clip_low, clip_high) with the adapter's defaults first"
        )
    return 1 - algorithm.clip_low, 1 + algorithm.clip_high
