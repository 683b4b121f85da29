"""Attention masks of decoders in which some tokens see one another both ways, layers with a window included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"


def masks(
    decoder: Any, embeds: Tensor, attended: Tensor | None, cache: Any, both_ways: Tensor | None, within: bool
) -> Tensor | Mapping[str, Tensor]:
    """[b, 1, w, k] of w tokens behind those of the cache, as the decoder takes it: for each kind of layer, where it has
    several. The cache must keep all that it was given, also for layers with a window.

    attended: [b, k] where tokens are real, None: all are. both_ways: [b, w, w] bool, pairs of the new tokens that see
    one another although one is behind. within: only where the window of a layer reaches.
    """
    batch, width = embeds.shape[:2]
    seen = 0 if cache is None else cache.get_seq_length()
    place = torch.arange(seen + width, device=embeds.device)
    old = torch.zeros(batch, width, seen, dtype=torch.bool, device=embeds.device)
    together = None if both_ways is None else torch.cat([old, both_ways], 2)
    itself = place[None] == place[seen:, None]  # padding sees itself: no NaN
    config = decoder.config

    def made(window: int | None) -> Tensor:
        near = place[None] > place[seen:, None] - (window or len(place))
        allowed = ((place[None] <= place[seen:, None]) & near).expand(batch, -1, -1)
        if together is not None:
            allowed = allowed | (together & near if within else together)
        if attended is not None:
            allowed = allowed & attended.bool()[:, None, :]
        return _as_asked(config, allowed | itself, embeds)

    if SLIDING not in (getattr(config, "layer_types", None) or ()):
        return made(None)
    return {FULL: made(None), SLIDING: made(config.sliding_window)}


def _as_asked(config: Any, allowed: Tensor, embeds: Tensor) -> Tensor:
    """[b, 1, w, k]: bools, or where attention adds it to its scores, numbers."""
    allowed = allowed[:, None]
    if config._attn_implementation != "eager":
        return allowed
    lowest = torch.finfo(embeds.dtype).min
    return torch.zeros(allowed.shape, dtype=embeds.dtype, device=embeds.device).masked_fill(~allowed, lowest)
