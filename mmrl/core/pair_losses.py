"""Preference objectives: pure functions of the log-probabilities of whole answers, chosen and rejected.

Shapes: P pairs. `logp_*` [P] is the sum over the trained actions of an answer's log-probabilities under the policy
(differentiable), `ref_*` [P] the same under the frozen reference. Every objective returns (loss [P], metrics), the
metrics as detached [P] tensors, so that a mean over all processes is the caller's.

The implicit reward of an answer is h = beta * (logp - ref), DPO (arXiv 2305.18290).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Outcome = tuple[Tensor, dict[str, Tensor]]


def implicit_reward(logp: Tensor, ref: Tensor, beta: float) -> Tensor:
    """h = beta * (logp - ref), [P]."""
    return beta * (logp - ref.detach())


def dpo(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float | Tensor = 0.0,
    form: str = "sigmoid",
) -> Outcome:
    """Direct preference optimisation on the margin h_c - h_r.

    form "sigmoid": -(1 - e) log sigmoid(margin) - e log sigmoid(-margin), e = label_smoothing, the assumed share of
    pairs whose labels are swapped, one number or one a pair (arXiv 2305.18290; with e, conservative DPO). form "ipo":
    (margin / beta - 1 / (2 beta))^2, whose optimum is a finite margin (arXiv 2310.12036), on sums of log-probs.
    Raises ValueError for another form, for label_smoothing outside [0, 0.5], and for label_smoothing with "ipo".
    """
    if form not in ("sigmoid", "ipo"):
        raise ValueError(f"dpo: form={form!r} is not known; use sigmoid or ipo")
    swapped = torch.as_tensor(label_smoothing)
    if not bool(((swapped >= 0) & (swapped <= 0.5)).all()):
        raise ValueError(f"dpo: label_smoothing={label_smoothing} must be from 0 to 0.5, the share of swapped labels")
    if form == "ipo" and bool(swapped.any()):
        raise ValueError("dpo: label_smoothing has no meaning with form='ipo'; set it to 0")
    chosen = implicit_reward(logp_chosen, ref_chosen, beta)
    rejected = implicit_reward(logp_rejected, ref_rejected, beta)
    margin = chosen - rejected
    if form == "ipo":
        loss = (margin / beta - 1 / (2 * beta)) ** 2
    else:
        swapped = swapped.to(margin)
        loss = -(1 - swapped) * F.logsigmoid(margin) - swapped * F.logsigmoid(-margin)
    return loss, _metrics(chosen, rejected)


def bco(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    delta: float = 0.0,
    beta: float = 0.1,
) -> Outcome:
    """Binary classifier optimisation (arXiv 2404.04656): -log sigmoid(h_c - delta) - log sigmoid(delta - h_r).

    Chosen and rejected answers are told apart one by one, against `delta`, the running mean of the implicit rewards
    (`shifted` updates it; a loss without it is delta=0).
    """
    chosen = implicit_reward(logp_chosen, ref_chosen, beta)
    rejected = implicit_reward(logp_rejected, ref_rejected, beta)
    return -F.logsigmoid(chosen - delta) - F.logsigmoid(delta - rejected), _metrics(chosen, rejected)


def shifted(delta: float, count: float, total: float, n: float) -> tuple[float, float]:
    """(delta, count) after n more implicit rewards that sum to `total`: the mean of all `count + n` of them.

    Give the rewards of the whole step, chosen and rejected, over all processes.
    """
    if n <= 0:
        return delta, count
    count += n
    return delta + (total - n * delta) / count, count


def mpo(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    length_chosen: Tensor,
    delta: float = 0.0,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    weights: tuple[float, float, float] = (0.8, 0.2, 1.0),
) -> Outcome:
    """Mixed preference optimisation of InternVL (arXiv 2411.10442): 0.8 DPO + 0.2 BCO + 1.0 SFT on the chosen answer.

    The SFT part is the mean negative log-likelihood per token of the chosen answer, so it needs `length_chosen` [P],
    the trained tokens of each, 1 or more. weights: of DPO, BCO and SFT. The released code drops token id 0 from the
    SFT part with the padding; here exactly the trained tokens count.
    """
    if bool((length_chosen < 1).any()):
        raise ValueError("mpo: a chosen answer has no trained token; length_chosen must be 1 or more")
    answers = (logp_chosen, logp_rejected, ref_chosen, ref_rejected)
    preference, metrics = dpo(*answers, beta=beta, label_smoothing=label_smoothing)
    quality, _ = bco(*answers, delta=delta, beta=beta)
    generation = -logp_chosen / length_chosen
    parts = {"dpo": preference, "bco": quality, "sft": generation}
    loss = weights[0] * preference + weights[1] * quality + weights[2] * generation
    return loss, metrics | {f"loss/{name}": part.detach() for name, part in parts.items()}


def _metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Implicit rewards, their margin, and whether the chosen answer is ahead (a tie counts half), each [P]."""
    margin = (chosen - rejected).detach()
    return {
        "margin": margin,
        "accuracy": torch.heaviside(margin, margin.new_tensor(0.5)),
        "reward_chosen": chosen.detach(),
        "reward_rejected": rejected.detach(),
    }


__all__ = ["bco", "dpo", "implicit_reward", "mpo", "shifted"]
