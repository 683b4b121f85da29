"""Supervised losses on given answers, from the log-probabilities of their tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

FIRST = ("sft_first", "sft_first_released")
PRECISE = "sft_precise"
OBJECTIVES = ("sft", "sft_phi", *FIRST, PRECISE)


def supervised_loss(
    logp: Tensor, objective: str, counts: Sequence[int], first_share: float = 0.1, weight: Tensor | None = None
) -> Tensor:
    """The loss of all answers, each of which counts by its tokens. logp: [n], answer by answer, `counts` tokens each.

    sft: the mean over tokens of -log p. sft_phi: weighted by p (1 - p) without gradient (CHORD's phi), which is largest
    at p = 1/2: what is known and what is far away both teach little.
    sft_first: of each answer, first_share times -log p of its first token + (1 - first_share) times the mean of the
    others': PaCo-Reward, whose score is that token's. sft_first_released: first_share / tokens in place of the first
    factor, which its code comes to. An answer of one token is that token.
    sft_precise: of each answer, the mean of -log p weighted by `weight` [n], above 0: CAD-RL's precision token loss.
    Raises ValueError for another objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r}: the text adapter knows {', '.join(OBJECTIVES)}")
    if objective == "sft":
        return -logp.mean()
    if objective == "sft_phi":
        p = logp.detach().exp()
        return -(p * (1 - p) * logp).mean()
    answers = logp.split(list(counts))
    if objective == PRECISE:
        assert weight is not None
        parts = [-(w * a).sum() / w.sum() * len(a) for a, w in zip(answers, weight.split(list(counts))) if len(a)]
    else:
        released = objective == "sft_first_released"
        parts = [_of_answer(answer, first_share, released) * len(answer) for answer in answers]
    return sum(parts[1:], parts[0]) / len(logp)


def _of_answer(logp: Tensor, share: float, released: bool) -> Tensor:
    if len(logp) < 2:
        return -logp.sum()
    first = share / len(logp) if released else share
    return -(first * logp[0] + (1 - share) * logp[1:].mean())
