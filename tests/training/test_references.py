"""The reference is the policy where its stage begins: whatever was trained before, in every modality, full and LoRA."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from able import able, values

LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}
trained = pytest.mark.parametrize("train", [{}, LORA], ids=["full", "lora"])
BUILD = {"kind": "qwen2", "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "context": 128, "chat": False}
# A reward that no policy satisfies for good, so that every stage moves.
ODD = "def odd(samples):\n    return [float(sum(map(ord, s.artifact)) % 5) for s in samples]\n"
FAST = {"lr": 0.05}


@pytest.fixture
def text(tmp_path):
    """text(train, *stages) -> the config of a tiny language model."""
    (tmp_path / "odd.py").write_text(ODD)
    (tmp_path / "prompts.txt").write_text("say\nsay say\n")
    lines = {
        "records": [{"id": str(i), "prompt": "say", "completion": "aeiou" * (1 + i)} for i in range(4)],
        "pairs": [{"id": str(i), "prompt": "say", "chosen": "aeiou" * (1 + i), "rejected": "xyz"} for i in range(4)],
    }
    for name, records in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))

    def config(train, *stages):
        data = {"prompts": str(tmp_path / "prompts.txt"), "records": str(tmp_path / "records.jsonl")}
        if not any(stage["kind"] == "sft" for stage in stages):
            data.pop("records")
        model = {"path": "built", "build": BUILD, "chat": "off", "sampling": {"max_tokens": 6}, **train}
        rewards = [{"name": f"{tmp_path / 'odd.py'}:odd"}]
        return values(
            tmp_path, *stages, modality="text", model=model, data=data, rewards=rewards, device="cpu", threads=1
        )

    return config


def rows(config):
    path = Path(config["out"]) / config["name"] / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


SFT = {"kind": "sft", "steps": 3, "batch": 4, "optim": FAST}
GRPO = {"kind": "grpo", "groups": 2, "optim": FAST, "micro_batch": 1000}
KL = {**GRPO, "name": "kl", "algorithm": {"kl_coef": 0.1}}


def begins_at_its_reference(config, stage="kl"):
    """The first step's KL is 0, up to rounding; a step later the policy has moved away, so that it is one."""
    first, second = (row["kl"] for row in rows(config) if row["stage"] == stage)
    assert abs(first) < 1e-6 < 1e-4 < second


@trained
def test_preferences_begin_at_log_two_behind_supervised_training(text, tmp_path, helpers, train):
    """1.12 instead of .6931 with LoRA, whose reference was the untrained model."""
    pairs = {"kind": "preference", "pairs": str(tmp_path / "pairs.jsonl"), "steps": 2, "batch": 4, "optim": FAST}
    config = text(train, SFT, pairs)
    helpers.train(config)
    losses = [row["loss"] for row in rows(config) if row["stage"] == "preference"]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(losses[1] - math.log(2)) > 1e-3


@trained
@pytest.mark.parametrize("before", [SFT, {**GRPO, "name": "before"}], ids=["sft", "grpo"])
def test_a_text_stage_begins_at_its_reference(text, helpers, train, before):
    config = text(train, before, KL)
    helpers.train(config)
    begins_at_its_reference(config)


@trained
def test_a_vision_stage_begins_at_its_reference(tmp_path, helpers, train):
    (tmp_path / "odd.py").write_text(ODD)
    scenes = f"{helpers.root / 'datasets/emoji_scenes/emoji_scenes.py'}:problem"
    build = {"kind": "qwen2_5_vl", "hidden": 32, "vision_hidden": 32, "patch": 8, "max_pixels": 4096}
    model = {"path": "built", "build": build, "sampling": {"max_tokens": 6}, **train}
    rewards = [{"name": f"{tmp_path / 'odd.py'}:odd"}]
    data = {"prompts": scenes, "prompts_count": 8}
    stages = [{**GRPO, "name": "before"}, KL]
    config = values(
        tmp_path, *stages, modality="vision", model=model, rewards=rewards, data=data, device="cpu", threads=1
    )
    helpers.train(config)
    begins_at_its_reference(config)


@pytest.mark.parametrize(
    "model", [{}, {"components": ["denoiser", "text_encoders"]}, LORA], ids=["full", "with text encoders", "lora"]
)
def test_an_image_stage_begins_at_its_reference(tiny, helpers, model):
    """With trained text encoders the KL was 0 for ever: the reference saw the policy's own conditions."""
    components = model.get("components")
    algorithm = {"preset": "flow_grpo", "kl_coef": 0.1}
    kl = helpers.grpo(name="kl", updates=1, algorithm=algorithm, components=components, optim={"lr": 0.01})
    sft = helpers.sft(components=components, optim={"lr": 0.01})
    config = tiny(stages=[sft, kl], model={k: v for k, v in model.items() if k != "components"})
    helpers.train(config)
    begins_at_its_reference(config)


def test_every_stage_has_a_reference_of_its_own(tmp_path):
    """Three stages; the last's is neither the first's nor the untrained policy."""
    stages = [{"name": f"s{i}", "updates": 1, "optim": {"lr": 0.1}, "algorithm": {"kl_coef": 0.1}} for i in range(3)]
    (tmp_path / "odd.py").write_text(ODD)
    loop = able(values(tmp_path, *stages, rewards=[{"name": f"{tmp_path / 'odd.py'}:odd"}]))
    loop.train()
    for number in range(3):
        first, second = (row["kl"] for row in loop.rows if row["stage"] == f"s{number}")
        assert abs(first) < 1e-6 < second
