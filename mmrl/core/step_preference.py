"""A preference between single steps: of a group's samples, the best one's steps are made likelier than the worst's.

A denoising step is an action with a log-probability, so that DPO speaks of it as it does of an answer. Where both steps
begin at the same latent the preference is between two ways on from there, as the step-aware forms have it (SPO, arXiv
2406.04314; LPO, arXiv 2502.01051); elsewhere it is D3PO's (arXiv 2311.13231), step against step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core import pair_losses


def extremes(advantage: Tensor, counted: Tensor, group: Tensor) -> Tensor:
    """[P, 2] int64: the rows of the best and of the worst sample of each group, groups in their order.

    advantage: [N]. counted: [N] bool, who may be chosen. group: [N]. Of equal samples the first is taken; a group whose
    samples are all equal, or that has less than two, has none.
    """
    found = []
    for one in group[counted].unique().tolist():
        rows = torch.nonzero((group == one) & counted).flatten()
        values = advantage[rows]
        best, worst = rows[values.argmax()], rows[values.argmin()]
        if advantage[best] > advantage[worst]:
            found.append(torch.stack([best, worst]))
    return torch.stack(found) if found else torch.zeros(0, 2, dtype=torch.int64)


def step_dpo(logp: Tensor, logp_ref: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(loss [P, T], margin [P, T] detached) of P pairs at T steps.

    logp: [P, 2, T], the better sample's steps first, differentiable; logp_ref: the same under what they are compared
    with. loss = -log sigmoid(beta [(logp_w - ref_w) - (logp_l - ref_l)]).
    """
    loss, told = pair_losses.dpo(logp[:, 0], logp[:, 1], logp_ref[:, 0], logp_ref[:, 1], beta=beta)
    return loss, told["margin"]
