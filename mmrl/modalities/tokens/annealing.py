"""Temperatures by position of a token (EAD)."""

from __future__ import annotations

from mmrl.core.schedule import ead
from mmrl.modalities.tokens.config import AnnealingConfig


def temperatures(options: AnnealingConfig, step: int, max_tokens: int) -> tuple[float, ...]:
    """The temperature of tokens 0..max_tokens - 1 at a training step (mmrl.core.schedule.ead)."""
    return ead(
        step,
        max_tokens,
        tau_max=options.tau_max,
        tau_min=options.tau_min,
        first=options.start,
        start=options.d0,
        growth=options.d_growth,
        limit=options.d_max,
    )
