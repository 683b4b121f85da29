"""The text adapter: causal language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmrl.modalities import hollow
from mmrl.modalities.text.classifier import export_classifier, write_classifier
from mmrl.modalities.text.config import ModelConfig
from mmrl.modalities.tokens import loading
from mmrl.modalities.tokens.adapter import TokenAdapter
from mmrl.modalities.tokens.reading_models import located


class TextAdapter(TokenAdapter):
    """A transformers causal language model as a policy over tokens."""

    Config = ModelConfig
    config: ModelConfig

    def _load(self) -> tuple[Any, Any]:
        config = self.config
        if config.build is not None:
            model, tokenizer = self._built()
        else:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            place = located(loading.source(config, "Qwen/Qwen3-0.6B"), config)
            model = loading.read(AutoModelForCausalLM, place, config, "causal language model")
            tokenizer = AutoTokenizer.from_pretrained(**place)
        return loading.trained(model, config), tokenizer

    def _built(self) -> tuple[Any, Any]:
        from mmrl.modalities.text.tiny import build

        with hollow.skeleton():
            model, tokenizer = build(**(self.config.build or {}))
        return model.to(loading.frozen_dtype(self.config)), tokenizer

    def save(self, folder: Path) -> None:
        """See TokenAdapter.save; with a scalar head also as a model for sequence classification (classifier.py)."""
        super().save(folder)
        if self.head is not None and self.config.train == "full":
            write_classifier(folder, self.model, self.tokenizer, self.head, self.stop_ids)

    def save_classifier(self, folder: Path) -> None:
        """The model with its scalar head, LoRA merged in, as one for sequence classification in a new folder.

        Raises ValueError where transformers has none for the architecture.
        """
        export_classifier(folder, self.model, self.tokenizer, self._scoring(), self.stop_ids)

    def _write_base(self, folder: Path) -> None:
        model, tokenizer = self._built()
        model.to(getattr(torch, self.config.dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
