"""The adapter contract (`mmrl check`) on every family that hears, in float32 and bfloat16, in all ways of training."""

from __future__ import annotations

import pytest

from mmrl.modalities.audio.adapter import AudioAdapter
from mmrl.modalities.audio.tiny import KINDS
from mmrl.training.check import check_adapter


@pytest.fixture
def prompts(sung, ask):
    """One sound, none, and another of another length."""
    return [ask("What is it?", sung(1)), ask("12+30="), ask("Which instrument is heard?", sung(2, 1.31))]


def checked(adapter, kind, prompts, **model):
    policy = adapter(kind, build={"layers": 1, "audio_layers": 1}, **model)
    return check_adapter(policy, prompts, reload=lambda folder: AudioAdapter(policy.config.at(folder)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_holds(adapter, prompts, kind):
    results = checked(adapter, kind, prompts)
    assert [(r.name, r.detail) for r in results if not r.passed] == []
    assert len(results) == 24


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("qwen2_audio", {"dtype": "bfloat16", "train": "lora", "lora": {"rank": 2}}),
        ("qwen2_5_omni", {"audio": "trained", "vision": "trained"}),
        ("voxtral", {"gradient_checkpointing": True, "audio": "trained"}),
        ("audioflamingo3", {"attention": "eager", "audio": "trained", "dtype": "bfloat16"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_the_contract_holds_for_other_settings(adapter, prompts, kind, model):
    assert [(r.name, r.detail) for r in checked(adapter, kind, prompts, **model) if not r.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", [{}, {"audio": "trained"}, {"train": "lora", "lora": {"rank": 2}}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_holds_in_every_precision_and_way_of_training(adapter, prompts, kind, model, dtype):
    results = checked(adapter, kind, prompts, dtype=dtype, **model)
    assert [(r.name, r.detail) for r in results if not r.passed] == []


@pytest.mark.parametrize("kind", ["qwen3_omni_moe"])
def test_the_contract_holds_where_pictures_stand_beside_sounds(adapter, sung, drawn, ask, kind):
    both = ask("What is both?", sung(1), images=[drawn(1)])
    results = checked(adapter, kind, [both, ask("12+30="), ask("a", images=[drawn(2)])])
    assert [(r.name, r.detail) for r in results if not r.passed] == []
