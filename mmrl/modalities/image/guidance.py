"""Classifier-free guidance: one output of the denoiser from a conditional and an unconditional one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scales(NamedTuple):
    """How strongly a way to sample is guided.

    guidance: in the numbers of the family's pipeline. true_cfg: of a second forward beside guidance that goes into the
    denoiser; 1 is none.
    """

    guidance: float
    true_cfg: float = 1.0


def guided(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """unconditional + scale (conditional - unconditional), [B, ...], with its spread brought back by `rescale`.

    rescale in [0, 1]: that share of the result has the standard deviation, within each sample, of the conditional
    output, which a large scale blows up. Source: Ho & Salimans 2022; the rescaling is Lin et al. 2023
    (arXiv 2305.08891), equations 14 to 16.
    """
    output = unconditional + scale * (conditional - unconditional)
    if rescale == 0:
        return output
    axes = tuple(range(1, output.ndim))
    spread = conditional.std(axes, keepdim=True) / output.std(axes, keepdim=True)
    return rescale * (output * spread) + (1 - rescale) * output
