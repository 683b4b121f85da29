"""The `model:` section of a text run. No model library is imported here."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mmrl.modalities.tokens.config import TokenModelConfig


class ModelConfig(TokenModelConfig):
    """A causal language model, how it is sampled and what of it is trained."""

    build: dict[str, Any] | None = Field(
        None,
        description="Build a tiny untrained model from these numbers instead of loading `path`: kind (qwen2, qwen3, "
        "llama), hidden, layers, heads, kv_heads, context, tied, seed, corpus and vocab (of the tokenizer), chat.",
    )
