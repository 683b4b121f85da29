"""Preferences between samples by how well a policy denoises them: a flow-matching error stands for minus a likelihood.

An error is `mmrl.core.flow_match.matching_error` (or a denoiser's), of the policy (differentiable) and of the frozen
reference at the same t and the same noise. Below the reference's, the policy makes the sample likelier.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrl.core import pair_losses
from mmrl.core.algorithm import Algorithm
from mmrl.core.gate import clip_flags
from mmrl.core.groups import group_count, group_sum
from mmrl.core.ratio import ratio
from mmrl.core.reduce import Reduce, local


def diffusion_dpo(
    error_chosen: Tensor,
    error_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 2000.0,
    label_smoothing: float | Tensor = 0.0,
) -> pair_losses.Outcome:
    """Diffusion-DPO (arXiv 2311.12908) of P pairs: -log sigmoid(-beta / 2 [(e_c - ref_c) - (e_r - ref_r)]), [P].

    Errors are means over elements, [P]; 2000 is the released beta for SD 1.5. It is DPO (mmrl.core.pair_losses.dpo)
    with -e / 2 for the log-probability of an answer.
    """
    halves = (-error / 2 for error in (error_chosen, error_rejected, ref_chosen, ref_rejected))
    return pair_losses.dpo(*halves, beta=beta, label_smoothing=label_smoothing)


def dgpo_logits(
    error: Tensor,
    error_ref: Tensor,
    advantage: Tensor,
    group: Tensor,
    n_groups: int,
    *,
    beta: float = 100.0,
    strict: bool = False,
    reduce: Reduce = local,
) -> Tensor:
    """DGPO's logit of each group, [n_groups] or [n_groups, K] float64: g = beta mean_i A_i (error_i - error_ref_i).

    Below 0, the policy has made good samples likelier and bad ones less likely. error, error_ref: [N] or [N, K] for K
    draws of t and noise; advantage: [N]; group: [N], whose samples may lie on several ranks. Every rank calls, with
    whole groups in sum.
    strict: raise ValueError, on every rank, for a group without a sample of A > 0 or without one of A < 0.
    """
    if strict:
        _refuse_one_sign(advantage, group, n_groups, reduce)
    gap = (error - error_ref).detach().double()
    weighted = (advantage.double() if gap.ndim == 1 else advantage.double()[:, None]) * gap
    size = group_count(torch.ones_like(group, dtype=torch.bool), group, n_groups, reduce).clamp(min=1)
    return beta * group_sum(weighted, group, n_groups, reduce) / (size if gap.ndim == 1 else size[:, None])


def dgpo(
    error: Tensor, advantage: Tensor, logit: Tensor, beta: float = 100.0, held: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """DGPO (direct group preference optimisation, arXiv 2510.08425): sigmoid(g) A_i error_i, [B] or [B, K].

    error: of some samples, of any number of groups; advantage: [B]; logit: each sample's, of `dgpo_logits` over the
    whole update, like `error`. Its mean over a group has the gradient of softplus(g) / beta, the loss of the whole
    group: so the groups of an update need not be in memory together. Dividing by beta leaves Adam's step, and keeps the
    gradient's size when beta is changed.
    held: bool like `error`, whose gradient is held back, as by `dgpo_clip`; they count in the logits all the same.
    """
    weight = torch.sigmoid(logit).to(error).detach()
    signed = advantage.to(error) if error.ndim == 1 else advantage.to(error)[:, None]
    if held is not None:
        error = torch.where(held, error.detach(), error)
    loss = weight * signed.detach() * error
    return loss, {"logit": logit.detach(), "preference": F.softplus(logit).detach() / beta}


def dgpo_clip(
    error: Tensor, error_old: Tensor, advantage: Tensor, algorithm: Algorithm
) -> tuple[Tensor, Tensor, Tensor]:
    """(held below, held above, |ratio - 1|), [B]: what the clip of the released DGPO holds back.

    PPO's rule on the ratio exp(error_old - error), which says how much likelier a sample has become than it was for the
    policy that sampled: above 1 + clip_high where A > 0, below 1 - clip_low where A < 0. All are [B]; with the gate
    "none" nothing is held.
    """
    r = ratio((error_old - error).detach())
    low, high = clip_flags(r, advantage.to(r), algorithm)
    return low, high, (r - 1).abs()


def _refuse_one_sign(advantage: Tensor, group: Tensor, n_groups: int, reduce: Reduce) -> None:
    signs = torch.stack([advantage > 0, advantage < 0, torch.ones_like(advantage, dtype=torch.bool)], 1)
    count = group_count(signs, group, n_groups, reduce)
    missing = torch.nonzero((count[:, 2] > 0) & (count[:, :2] == 0).any(1)).flatten().tolist()
    if missing:
        raise ValueError(
            f"{len(missing)} groups have advantages of one sign only, first group {missing[0]}: nothing is preferred "
            "there; give advantages that are centred in each group, and leave groups without signal out"
        )


__all__ = ["dgpo", "dgpo_clip", "dgpo_logits", "diffusion_dpo"]
