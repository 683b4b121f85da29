"""Rotary positions that change with the length of what is read, made a function of the position alone."""

from __future__ import annotations

import warnings
from typing import Any

from mmrl.modalities.tokens.config import TokenModelConfig

LONGROPE = "longrope"


def fix_longrope(model: Any, config: TokenModelConfig) -> int | None:
    """The context in which a model with LongRoPE (Phi-3) is one function of its tokens; None for another model.

    LongRoPE has two sets of frequencies and takes the long one for a whole batch as soon as one row is longer than the
    original context. A token sampled before that would have another probability in its replay, so a run takes one
    of the two: the short one, in the original context, unless `max_prompt_tokens` and the longest completion need more.
    Warns, in one line, of the consequence.
    """
    found = [m for m in model.modules() if getattr(m, "rope_type", None) == LONGROPE]
    if not found:
        return None
    numbers = model.config.get_text_config()
    original = int(numbers.rope_parameters["original_max_position_embeddings"])
    context = int(numbers.max_position_embeddings)
    needed = (config.max_prompt_tokens or 0) + max(config.sampling.max_tokens, config.evaluation.max_tokens or 0)
    long = needed > original
    for module in found:
        _fix(module, original, long)
    name = type(model).__name__
    if long:
        warnings.warn(
            f"{name}: prompts and completions of up to {needed} tokens need its long positions (over {original}); this "
            "run takes them for shorter rows too, as vLLM does, where transformers alone would not",
            stacklevel=2,
        )
        return context
    warnings.warn(
        f"{name}: its positions change at {original} tokens, and this run stays below; for longer prompts set "
        "max_prompt_tokens, so that it takes the long ones",
        stacklevel=2,
    )
    return original


def _fix(module: Any, original: int, long: bool) -> None:
    if long:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies, _ = ROPE_INIT_FUNCTIONS[LONGROPE](module.config, module.inv_freq.device, seq_len=original + 1)
        module.inv_freq.copy_(frequencies)
    module.rope_type = "fixed"  # transformers looks for a change of length in those that it knows by name
