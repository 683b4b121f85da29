"""The `model:` section of a text run. No model library is imported here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from pydantic import Field

from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.types import Prompt


class ModelConfig(TokenModelConfig):
    """A causal language model, how it is sampled and what of it is trained."""

    build: dict[str, Any] | None = Field(
        None,
        description="Build a tiny untrained model from these numbers instead of loading `path`: kind (qwen2, qwen3, "
        "llama), hidden, layers, heads, kv_heads, context, tied, seed, corpus and vocab (of the tokenizer), chat.",
    )

    def prompt_check(self) -> Callable[[Prompt], str | None] | None:
        """Whether the chat template takes a prompt; None where the tokenizer's files are not on this machine."""
        from mmrl.modalities.tokens import loading
        from mmrl.modalities.tokens.prompts import PromptEncoder

        if self.build is not None:
            from mmrl.modalities.text.tiny import build

            tokenizer = build(**self.build)[1]
        else:
            from transformers import AutoTokenizer

            try:
                place = loading.source(self, "Qwen/Qwen3-0.6B")
                tokenizer = AutoTokenizer.from_pretrained(**place, local_files_only=True)
            except OSError:
                return None
        return PromptEncoder(tokenizer, self, sys.maxsize).refusal
