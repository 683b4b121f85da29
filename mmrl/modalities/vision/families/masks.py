"""Attention masks of decoders in which some tokens see one another in both directions, layers with a window included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"


def masks(
    decoder: Any, embeds: Tensor, attended: Tensor | None, cache: Any, both_ways: Tensor | None
) -> Tensor | Mapping[str, Tensor]:
    """[b, 1, w, k] of w tokens behind those of the cache, as the decoder takes it: for each kind of layer, where it has
    several. The cache must keep all that it was given, also for layers with a window.

    attended: [b, k] where tokens are real, None: all are. both_ways: [b, w, w] bool, pairs of the new tokens that see
    one another although one is behind.
    """
    batch, width = embeds.shape[:2]
    seen = 0 if cache is None else cache.get_seq_length()
    place = torch.arange(seen + width, device=embeds.device)
    behind = place[None] <= place[seen:, None]
    allowed = behind.expand(batch, -1, -1)
    if both_ways is not None:
        old = torch.zeros(batch, width, seen, dtype=torch.bool, device=embeds.device)
        allowed = allowed | torch.cat([old, both_ways], 2)
    if attended is not None:
        allowed = allowed & attended.bool()[:, None, :]
    itself = place[None] == place[seen:, None]  # padding sees itself: no NaN
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds & {SLIDING}:
        return _as_asked(config, allowed | itself, embeds)
    near = place[None] > place[seen:, None] - config.sliding_window
    return {
        FULL: _as_asked(config, allowed | itself, embeds),
        SLIDING: _as_asked(config, (allowed & near) | itself, embeds),
    }


def _as_asked(config: Any, allowed: Tensor, embeds: Tensor) -> Tensor:
    """[b, 1, w, k]: bools, or where attention adds it to its scores, numbers."""
    allowed = allowed[:, None]
    if config._attn_implementation != "eager":
        return allowed
    lowest = torch.finfo(embeds.dtype).min
    return torch.zeros(allowed.shape, dtype=embeds.dtype, device=embeds.device).masked_fill(~allowed, lowest)
