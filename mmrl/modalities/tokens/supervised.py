"""Supervised losses on given answers, from the log-probabilities of their tokens."""

from __future__ import annotations

from torch import Tensor

OBJECTIVES = ("sft", "sft_phi")


def supervised_loss(logp: Tensor, objective: str) -> Tensor:
    """Mean over tokens of -log p, weighted by p (1 - p) without gradient for "sft_phi" (CHORD's phi).

    logp: [n], over all tokens of all answers. The weight is largest at p = 1/2: what is known and what is far away
    both teach little. Raises ValueError for another objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r}: the text adapter knows {', '.join(OBJECTIVES)}")
    if objective == "sft":
        return -logp.mean()
    p = logp.detach().exp()
    return -(p * (1 - p) * logp).mean()
