"""Tiny models that hear, whose weights are large enough for a mistake to show, and sounds that are made of sines."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from perceiving import built
from PIL import Image, ImageDraw

import mmrl  # noqa: F401  before transformers: it hooks the import of torchvision
from mmrl.types import Group, Prompt

SIZES = {"hidden": 32, "heads": 2, "kv_heads": 1, "audio_hidden": 32, "audio_heads": 2}


def tone(number: int = 0, seconds: float = 0.7, rate: int = 16_000) -> dict:
    """A falling chord as a table holds it; other numbers are other chords."""
    time = np.arange(int(seconds * rate)) / rate
    pitch = 200.0 + 90 * number
    wave = np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(2 * np.pi * 3.1 * pitch * time + number)
    return {"array": (0.2 * wave * np.exp(-time)).astype(np.float32), "sampling_rate": rate}


def make(kind="qwen2_audio", build=None, sampling=None, loud=False, **model):
    """An AudioAdapter of a model of two layers. loud: with weights so large that positions and sounds matter."""
    from mmrl.modalities.audio.adapter import AudioAdapter
    from mmrl.modalities.audio.config import ModelConfig

    sampling = {"max_tokens": 8, **(sampling or {})}
    return built(AudioAdapter, ModelConfig, SIZES, kind, build, sampling, loud, **model)


# The name outside of this file: `adapter(...)` is a new policy, `shared(kind)` one that no test may change.
@pytest.fixture(scope="session")
def adapter():
    return make


@pytest.fixture(scope="session")
def shared():
    heat = {"temperature": 0.7}
    return lru_cache(maxsize=None)(lambda kind: make(kind, loud=True, sampling=heat))


@pytest.fixture(scope="session")
def sung():
    return tone


@pytest.fixture(scope="session")
def drawn():
    def picture(number=0, size=(48, 32)):
        made = Image.new("RGB", size, (40 * number % 256, 200, 90))
        ImageDraw.Draw(made).rectangle((2 + 3 * number % 30, 5, 20 + 3 * number % 30, 25), fill=(220, 30, 0))
        return made

    return picture


@pytest.fixture(scope="session")
def ask():
    """ask(text, *sounds, id=..., **record) -> a Prompt."""

    def made(text="What is it?", *sounds, id=None, **record):
        return Prompt(id or text, text, {"sounds": list(sounds), **record})

    return made


@pytest.fixture(scope="session")
def roll():
    """roll(policy, prompts, n) -> the samples of a rollout, flat."""

    def run(policy, prompts, n=2, step=0, seed=0):
        groups = [Group(prompt, i) for i, prompt in enumerate(prompts)]
        return [s for g in policy.rollout(groups, n, step, seed) for s in g.samples]

    return run
