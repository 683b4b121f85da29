"""Tiny language models that are made in a moment, and one thread so that sums are the same every time."""

from __future__ import annotations

import pytest

import mmrl  # noqa: F401  before transformers: it hooks the import of torchvision


@pytest.fixture
def adapter():
    """adapter(build={...}, sampling={...}, **model) -> a TextAdapter of a one-layer model."""
    from mmrl.modalities.text.adapter import TextAdapter
    from mmrl.modalities.text.config import ModelConfig

    def make(build=None, sampling=None, **model):
        made = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, **(build or {})}
        return TextAdapter(
            ModelConfig(path="built", build=made, sampling={"max_tokens": 12, **(sampling or {})}, **model)
        )

    return make


@pytest.fixture
def roll():
    """roll(adapter, texts, n) -> the samples of a rollout, flat."""
    from mmrl.types import Group, Prompt

    def run(policy, texts=("12+3=", "What is 5 times 7?"), n=3, step=0, seed=0):
        groups = [Group(Prompt(str(i), text), i) for i, text in enumerate(texts)]
        return [s for g in policy.rollout(groups, n, step, seed) for s in g.samples]

    return run
