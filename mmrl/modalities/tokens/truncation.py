"""What top-k and top-p leave of a distribution, as an engine that reports the log-probs of the rest computes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmrl.engines.base import Sampling
from mmrl.modalities.tokens.logprobs import Head


@torch.no_grad()
def kept_mass(
    hidden: Tensor, head: Head, temperature: Tensor, sampling: Sampling, slack: float
) -> tuple[Tensor, Tensor]:
    """(least, most) [n] float32: log of the probability that top-k and then top-p keep.

    hidden: [n, D], where the distributions come from. temperature: [n]. slack: nats by which another engine's log-probs
    may be off. Where the sum of the likeliest tokens is as near to top_p as that, it may keep a token more or less.

    A token that is drawn from what is kept has log p - log mass there.
    """
    least, most = (torch.zeros(len(hidden), device=hidden.device) for _ in range(2))
    buffer = head.buffer(len(hidden))
    for part in head.chunks(len(hidden)):
        p = head.distribution(hidden[part], temperature[part], buffer).softmax(1).sort(descending=True).values
        if 0 < sampling.top_k < p.shape[1]:
            p = p[:, : sampling.top_k]
        summed = p.double().cumsum(1)
        least[part] = _up_to(summed, sampling.top_p, -slack)
        most[part] = _up_to(summed, sampling.top_p, slack)
    return least, most


def _up_to(summed: Tensor, top_p: float, slack: float) -> Tensor:
    """Log of the first sum that reaches top_p, moved by `slack` nats, of the whole."""
    whole = summed[:, -1:]
    share = min(1.0, top_p * math.exp(slack)) if top_p < 1 else 1.0
    place = torch.searchsorted(summed, share * whole).clamp(max=summed.shape[1] - 1)
    return summed.gather(1, place)[:, 0].log().float()
