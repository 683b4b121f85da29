"""Tiny vision-language models whose weights are large enough for a mistake to show, and drawn pictures."""

from __future__ import annotations

from functools import lru_cache

import pytest
from perceiving import built
from PIL import Image, ImageDraw

import mmrl  # noqa: F401  before transformers: it hooks the import of torchvision
from mmrl.types import Group, Prompt

QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
SIZES = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_hidden": 32, "vision_heads": 2, "patch": 8}


def picture(number: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A drawing; other numbers are other drawings."""
    made = Image.new("RGB", size, (40 * number % 256, 200, 90))
    draw = ImageDraw.Draw(made)
    draw.rectangle((2 + 3 * number % 30, 5, 20 + 3 * number % 30, 25), fill=(220, 30, 10 * number % 256))
    draw.line((0, 0, *size), fill=(0, 0, 0), width=3)
    return made


def make(kind="qwen2_5_vl", build=None, sampling=None, loud=False, **model):
    """A VisionAdapter of a model of two layers. loud: with weights so large that positions and pictures matter."""
    from mmrl.modalities.vision.adapter import VisionAdapter
    from mmrl.modalities.vision.config import ModelConfig

    sampling = {"max_tokens": 10, **(sampling or {})}
    return built(VisionAdapter, ModelConfig, SIZES, kind, build, sampling, loud, **model)


# The name outside of this file: `adapter(...)` is a new policy, `shared(kind)` one that no test may change.
@pytest.fixture(scope="session")
def adapter():
    return make


@pytest.fixture(scope="session")
def shared():
    heat = {"temperature": 0.7}
    return lru_cache(maxsize=None)(lambda kind: make(kind, loud=True, build={"tiles": 2}, sampling=heat))


@pytest.fixture(scope="session")
def drawn():
    return picture


@pytest.fixture
def ask():
    """ask(text, *pictures, id=..., **record) -> a Prompt."""

    def made(text="What is it?", *pictures, id=None, **record):
        return Prompt(id or text, text, {"images": list(pictures), **record})

    return made


@pytest.fixture
def roll():
    """roll(policy, prompts, n) -> the samples of a rollout, flat."""

    def run(policy, prompts, n=2, step=0, seed=0):
        groups = [Group(prompt, i) for i, prompt in enumerate(prompts)]
        return [s for g in policy.rollout(groups, n, step, seed) for s in g.samples]

    return run
