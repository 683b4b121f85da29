"""The adapter contract (`mmrl check`) on every family, and on every way of training that changes the forward."""

from __future__ import annotations

import pytest

from mmrl.modalities.vision.adapter import VisionAdapter
from mmrl.modalities.vision.tiny import KINDS
from mmrl.training.check import check_adapter


@pytest.fixture
def prompts(drawn, ask):
    """One picture, none, and two of other shapes."""
    two = [drawn(2, (40, 90)), drawn(3, (70, 30))]
    return [ask("What is it?", drawn(1)), ask("12+30="), ask("Which of the two pictures shows more red?", *two)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_holds(adapter, prompts, kind):
    policy = adapter(kind, build={"tiles": 2})
    results = check_adapter(policy, prompts, reload=lambda folder: VisionAdapter(policy.config.at(folder)))
    assert [(r.name, r.detail) for r in results if not r.passed] == []
    assert len(results) == 24


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("qwen2_5_vl", {"vision": "trained"}),
        ("qwen3_vl", {"vision": "trained"}),
        ("idefics3", {"vision": "trained"}),
        ("qwen2_5_vl", {"train": "lora", "lora": {"rank": 2}}),
        ("paligemma", {"train": "lora", "lora": {"rank": 2}}),
        ("qwen3_vl", {"gradient_checkpointing": True, "vision": "trained"}),
        ("internvl", {"gradient_checkpointing": True}),
        ("qwen2_vl", {"attention": "eager", "sampling": {"temperature": 0.7, "top_k": 20, "top_p": 0.9}}),
        ("qwen2_5_vl", {"fp32_head": True, "logits_chunk": 5, "build": {"tied": False}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_the_contract_holds_for_other_settings(adapter, prompts, kind, model):
    policy = adapter(kind, **model)
    results = check_adapter(policy, prompts, reload=lambda folder: VisionAdapter(policy.config.at(folder)))
    assert [(r.name, r.detail) for r in results if not r.passed] == []


def test_layers_that_are_recomputed_are_refused_where_prompts_need_a_cache(adapter):
    with pytest.raises(ValueError, match=r"gradient_checkpointing: prompts of PaliGemma.* need a cache.*leave it off"):
        adapter("paligemma", gradient_checkpointing=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_holds_in_every_precision_and_way_of_training(adapter, prompts, kind, train, dtype):
    lora = {"lora": {"rank": 2}} if train == "lora" else {}
    policy = adapter(kind, build={"tiles": 2}, train=train, dtype=dtype, **lora)
    results = check_adapter(policy, prompts, reload=lambda folder: VisionAdapter(policy.config.at(folder)))
    assert [(r.name, r.detail) for r in results if not r.passed] == []
