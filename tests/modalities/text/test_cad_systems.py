"""Every system of configs/cad and its twin, one step of each stage, on a tiny model that is made on the spot.

What the kernel says is a stand-in here: which answers have a digit. The rewards themselves are in tests/rewards.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import mmrl
from mmrl.config import load
from mmrl.modalities.load import adapter_class, config_class
from mmrl.modalities.text.adapter import TextAdapter
from mmrl.share import share

SYSTEMS = ["cad_rl", "cadrille_like", "cad_coder"]
PARTS = "share://datasets/parts/parts.py"
BUILD = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "context": 1024}
STAND_IN = [{"name": "regex.count", "options": {"pattern": r"\d", "most": 3}}]
OF_STAGE = {"sft": {"steps": 1, "batch": 4}, "grpo": {"steps": 1, "groups": 2, "samples": 6}}


def trained(name: str, folder: Path) -> Path:
    config = load(f"cad/{name}")
    changes = [
        f"out={folder}",
        f"name={name}",
        "model.dtype=float32",
        "model.sampling.max_tokens=8",
        "checkpoint.every=100",
    ]
    changes += ["data.eval_prompts=null", "eval={}", ("data.eval_prompts_options", {}), "data.prompts_count=2"]
    changes += [("rewards", STAND_IN), "data.eval_prompts_count=100", f"data.prompts={PARTS}:part", "data.format=auto"]
    if config.modality == "vision":
        changes += ["model.path=share://assets/vision-tiny"]
    else:
        changes += ["model.path=built", ("model.build", {**BUILD, "chat": "tiny" not in name})]
    if "tiny" not in name:
        changes += ["model.gradient_checkpointing=false"]
    if config.data.records:
        changes += [f"data.records={PARTS}:program", ("data.options", {"think": True})]
    for stage in config.stages:
        changes += [f"stages.{stage.name}.{key}={value}" for key, value in OF_STAGE[stage.kind].items()]
    mmrl.train(load(f"cad/{name}", changes), quiet=True)
    return folder / name


@pytest.mark.parametrize("name", [n for system in SYSTEMS for n in (system, f"{system}_tiny")])
def test_a_system_goes_through_its_stages(tmp_path, name):
    if "vision" in load(f"cad/{name}").modality:
        pytest.importorskip("torchvision")
    folder = trained(name, tmp_path)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len(load(f"cad/{name}").stages)
    assert 0 <= rows[-1]["reward/mean"] <= 1 and rows[-1]["grad_norm"] >= 0


def test_the_modality_is_the_text_adapter():
    assert adapter_class("cad") is TextAdapter
    assert config_class("cad") is config_class("text")
    assert load("cad/tiny").modality == "cad"


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_twin_has_the_algorithm_of_its_system(name):
    """But for what depends on the answer's length, and the KL of what is already known."""
    real, tiny = (load(f"cad/{n}").stages[-1].algorithm for n in (name, f"{name}_tiny"))
    free = {"constant_length", "kl_coef"}
    assert {k: v for k, v in real.items() if k not in free} == {k: v for k, v in tiny.items() if k not in free}


def test_the_model_that_ships_is_small_and_reads_digits_one_by_one():
    from safetensors import safe_open
    from transformers import AutoTokenizer

    folder = share("assets", "cad-tiny")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        sizes = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    assert sum(sizes) < 2_000_000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [tokenizer.decode([i]) for i in tokenizer("result.circle(127/2).extrude(30)").input_ids]
    assert words == ["result", ".", "circle", "(", "1", "2", "7", "/", "2", ").", "extrude", "(", "3", "0", ")"]


@pytest.mark.slow
def test_the_default_is_rewarded_for_its_solids(tmp_path):
    pytest.importorskip("cadquery")
    changes = [f"out={tmp_path}", "stages.0.steps=1", "stages.0.groups=4", "stages.0.samples=4", "eval.prompts=8"]
    mmrl.train(load("cad/tiny", changes), quiet=True)
    (row,) = [json.loads(line) for line in (tmp_path / "cad-tiny/metrics.jsonl").read_text().splitlines()]
    assert 0.1 < row["reward/mean"] < 1 and row["reward/invalid"] == 0 and row["grad_norm"] > 0
    before = json.loads((tmp_path / "cad-tiny/summary.json").read_text())["eval"]["before"]
    assert 0.1 < before["cad.iou"] < 0.7
