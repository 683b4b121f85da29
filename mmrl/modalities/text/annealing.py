"""Temperatures by position of a token (EAD)."""

from __future__ import annotations

import math

from mmrl.modalities.text.config import AnnealingConfig


def temperatures(options: AnnealingConfig, step: int, max_tokens: int) -> tuple[float, ...]:
    """The temperature of tokens 0..max_tokens - 1 at a training step; 1 for the first `start` of them.

    tau_t = max(1 + tau_max - e^(t / d), tau_min) with d = min(d0 + d_growth * step, d_max).
    """
    d = min(options.d0 + options.d_growth * step, options.d_max)
    # e^(t / d) is far above tau_max long before it overflows.
    falling = (1 + options.tau_max - math.exp(min(t / d, 100.0)) for t in range(max_tokens))
    return tuple(1.0 if t < options.start else max(tau, options.tau_min) for t, tau in enumerate(falling))
