"""Every audio system and its tiny twin, one step of each stage, on a model of its class that is made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mmrl
from mmrl.config import load

pytest.importorskip("soundfile")

SYSTEMS = ["sari", "r1_aqa", "ke_omni_r"]
QUESTIONS = "share://datasets/mini_aqa/mini_aqa.py"
SMALL = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "audio_layers": 1, "mels": 8, "seconds": 2}
OF_STAGE = {
    "sft": {"steps": 1, "batch": 2},
    "filter": {"steps": 1, "groups": 2, "samples": 2, "low": 0.0},
    "grpo": {"steps": 1, "groups": 2, "samples": 2},
}


def trained(name: str, folder: Path) -> Path:
    config = load(f"audio/{name}")
    kind = "qwen2_5_omni" if "omni" in name else "qwen2_audio"
    changes = [f"out={folder}", f"name={name}", "model.path=built", ("model.build", {**SMALL, "kind": kind})]
    changes += ["model.sampling.max_tokens=4", "model.dtype=float32", "data.eval_prompts=null", "eval={}"]
    changes += [("data.eval_prompts_options", {}), "data.prompts_count=2", "checkpoint.every=100"]
    if "tiny" not in name:
        options = {"kinds": ["voice", "louder"], "ask": "structured"}
        changes += ["model.gradient_checkpointing=false", f"data.prompts={QUESTIONS}:question", "data.format=auto"]
        changes += [("data.prompts_options", options)]
        changes += [f"data.records={QUESTIONS}:record", ("data.options", options)] if config.data.records else []
    else:
        changes += ["data.eval_prompts_count=100"]
    for stage in config.stages:
        changes += [f"stages.{stage.name}.{key}={value}" for key, value in OF_STAGE[stage.kind].items()]
    mmrl.train(load(f"audio/{name}", changes), quiet=True)
    return folder / name


@pytest.mark.parametrize(
    "name",
    [
        *(*SYSTEMS, "sari_tiny"),
        *(pytest.param(f"{name}_tiny", marks=pytest.mark.slow) for name in SYSTEMS if name != "sari"),
    ],
)
def test_a_system_goes_through_its_stages(tmp_path, name):
    folder = trained(name, tmp_path)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    stages = load(f"audio/{name}").stages
    assert len(rows) == len(stages)
    assert rows[-1]["reward/mean"] == 0 and "reward/choice.text" in rows[-1]  # an untrained model says nothing
    if "sari" in name:
        kept = [json.loads(line) for line in (folder / "data/measure.jsonl").read_text().splitlines()]
        assert [record["pass_rate"] for record in kept] == [0, 0]
        assert all((folder / "data" / record["sounds"][0]).is_file() for record in kept)


def test_the_weights_are_those_of_kin():
    weights = {name: [reward.weight for reward in load(f"audio/{name}").rewards] for name in SYSTEMS}
    assert weights == {"sari": [2, 1], "r1_aqa": [1, 1], "ke_omni_r": [2, 1]}
    assert all(load(f"audio/{name}_tiny").rewards[0].weight == weights[name][0] for name in SYSTEMS)
