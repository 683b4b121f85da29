"""Untrained language models of two layers, the same each time."""

from __future__ import annotations

from typing import Any

import torch
import transformers

V = 40


def decoder(kind: str, **numbers: Any) -> Any:
    """kind: as in the names of transformers' classes. numbers: of its config."""
    torch.manual_seed(1)
    sizes = {
        "vocab_size": V,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        **numbers,
    }
    return getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)).eval()
