"""Flash-DMD on a picture model: its blocks, records, teacher and re-noise steps, through whole runs of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmrl.config import ConfigError, load
from mmrl.training.assemble import assemble
from mmrl.training.loop import Loop

OPTIM = {"lr": 1e-3}
STAGE = {"kind": "distill", "steps": 2, "groups": 2, "samples": 2, "micro_batch": 2, "optim": OPTIM, "early": 0.5}
STAGE |= {"fake": {"optim": OPTIM, "follow": {"decay": 0.9}}}
HEADS = {"blocks": 1, "width": 4, "heads": {"optim": OPTIM}}
RENOISE = {"kernel": "renoise", "same_noise": True}
LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}


def rows_of(config):
    lines = (Path(config["out"]) / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("model", "stage"),
    [
        (
            {},
            {"adversary": {**HEADS, "form": "hinge"}, "joint": {"algorithm": {"preset": "flow_grpo", "kl_coef": 0.1}}},
        ),
        (
            {**LORA, "gradient_checkpointing": True},
            {
                "guidance": 2.0,
                "adversary": {**HEADS, "real": "teacher", "teacher_steps": 2, "features": "fake"},
                "joint": {"objective": "step_dpo", "schedule": "weighted", "anchor": {}},
            },
        ),
    ],
    ids=["full", "lora"],
)
def test_a_picture_model_is_distilled_and_rewarded(tiny, helpers, model, stage):
    config = tiny(model={**model, "sampling": RENOISE}, stages=[STAGE | stage])
    if stage["adversary"].get("real"):
        config["data"].pop("records"), config["data"].pop("records_count")
    helpers.train(config)
    for row in rows_of(config):
        assert row["loss"] > 0 and row["grad_norm"] > 0 and row["adversary/loss"] is not None
        assert row["fake/grad_norm"] > 0 and row["heads/grad_norm"] > 0 and row["reward/mean"] > 0
        assert row["joint/loss"] is not None


@pytest.mark.parametrize(
    ("sampling", "stage", "told"),
    [
        ({}, {"joint": {}}, r"set model.sampling.kernel: renoise, with a plan that trains steps"),
        (RENOISE | {"plan": {"name": "untrained"}}, {"joint": {}}, "samples have none that is trained"),
        (RENOISE, {"adversary": {**HEADS, "blocks": 9}}, "ask for fewer"),
        (RENOISE, {"teacher": "no/such/model"}, "no/such/model"),
    ],
    ids=["no renoise", "untrained", "blocks", "teacher"],
)
def test_what_cannot_be_is_refused_before_a_step(tiny, sampling, stage, told):
    config = tiny(model={"sampling": sampling}, stages=[STAGE | stage])
    with pytest.raises((ConfigError, ValueError, OSError), match=told):
        Loop(assemble(load(config)), quiet=True).train()
    metrics = Path(config["out"]) / "run" / "metrics.jsonl"
    assert not metrics.exists() or metrics.read_text() == ""
