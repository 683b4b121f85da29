"""Runs with `sharding` start with weights that stay in their files until they are divided: what each process then holds
is, bit for bit, what it would hold of a model that was read whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from divided import GRPO, LORA, Runs
from every import every
from safetensors.torch import load_file, save_file

from mmrl.training.assemble import load_adapter

ASSETS = Path(__file__).parents[2] / "assets"
SHORT = {"sampling": {"max_tokens": 6}}
HALF = {**LORA, "dtype": "bfloat16"}
SCRIPT = Path(__file__).with_name("starting.py")


def saved(config, folder: Path) -> str:
    """The built model of a config, in a folder."""
    from mmrl.config import load

    load_adapter(load(config)).save(folder)
    return str(folder)


def asset(runs, modality: str, name: str, **model):
    base = runs.text("x", GRPO)
    if modality == "image":
        base = runs.image("x", "sd3", GRPO)
        return {**base, "model": {"path": name, "sampling": {"steps": 2}, "evaluation": {"steps": 2}, **model}}
    return {**base, "modality": modality, "model": {"path": name, "chat": "off", **SHORT, **model}}


def text(runs, **model):
    return asset(runs, "text", str(ASSETS / "text-tiny"), **model)


def scored(runs):
    rows = [{"prompt": "one", "chosen": "two", "rejected": "six"}]
    stage = {"kind": "reward_model", "pairs": runs.jsonl("pairs", rows), "steps": 1, "batch": 1}
    return {**text(runs, head={"init": 0.1}), "stages": [stage], "data": {}, "rewards": []}


def seen(runs, **model):
    found = asset(runs, "vision", str(ASSETS / "vision-tiny"), **model)
    del found["model"]["chat"]
    return found


def heard(runs, **model):
    found = asset(runs, "audio", str(ASSETS / "audio-tiny"), **model)
    del found["model"]["chat"]
    return found


def drawn(runs, **model):
    return asset(runs, "image", str(ASSETS / "image-tiny"), **model)


def experts(runs, **model):
    """Experts that are stored one by one, and are one tensor for all in the model; in several files."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder = runs.folder / "experts"
    if not folder.is_dir():
        numbers = Qwen3MoeConfig(
            vocab_size=400, hidden_size=16, intermediate_size=24, moe_intermediate_size=8, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=4, num_experts_per_tok=2,
        )  # fmt: skip
        torch.manual_seed(1)
        Qwen3MoeForCausalLM(numbers).save_pretrained(folder, max_shard_size="30KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
        copy_tokenizer(folder)
    return {**text(runs, **model), "model": {**text(runs, **model)["model"], "path": str(folder)}}


def twice(runs, **model):
    """Tied embeddings of which the file holds both."""
    folder = runs.folder / "twice"
    if not folder.is_dir():
        copy_model(ASSETS / "text-tiny", folder)
        found = load_file(folder / "model.safetensors")
        name = next(name for name in found if name.endswith("embed_tokens.weight"))
        save_file({**found, "lm_head.weight": found[name].clone()}, folder / "model.safetensors", {"format": "pt"})
    return {**text(runs, **model), "model": {**text(runs, **model)["model"], "path": str(folder)}}


def copy_model(source: Path, folder: Path) -> None:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def copy_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((ASSETS / "text-tiny" / name).read_bytes())


CASES = {
    "text": lambda runs: text(runs),
    "text_half": lambda runs: text(runs, **HALF),
    "text_scored": lambda runs: scored(runs),
    "recomputed": lambda runs: text(runs, gradient_checkpointing=True, dtype="bfloat16"),
    "experts": lambda runs: experts(runs),
    "experts_half": lambda runs: experts(runs, **HALF),
    "twice": lambda runs: twice(runs),
    "seen": lambda runs: seen(runs, vision="trained"),
    "seen_half": lambda runs: seen(runs, **HALF),
    "heard": lambda runs: heard(runs),
    "heard_half": lambda runs: heard(runs, **HALF),
    "drawn": lambda runs: drawn(runs),
    "drawn_half": lambda runs: drawn(runs, **HALF),
}


def started(helpers, folder: Path, cases) -> dict[str, dict[int, SimpleNamespace]]:
    """Case -> process -> (count of unread tensors, share of bytes, what is wrong)."""
    given = [[name, {**config, "sharding": {"shards": 2}}] for name, config in cases.items()]
    (folder / "cases.json").write_text(json.dumps(given), encoding="utf-8")
    process = helpers.two_processes(str(SCRIPT), str(folder / "cases.json"))
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[:3000] + err[-3000:]
    found: dict[str, dict[int, SimpleNamespace]] = {}
    for line in out.splitlines():
        if line.startswith("["):
            name, rank, count, share, wrong = json.loads(line)
            found.setdefault(name, {})[rank] = SimpleNamespace(unread=count, share=share, wrong=wrong)
    return found


@pytest.fixture(scope="module")
def starts(helpers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unread")
    runs = Runs(folder)
    return started(helpers, folder, {name: case(runs) for name, case in CASES.items()})


@every("case", list(CASES))
def test_what_was_left_in_files_is_what_a_whole_start_reads(starts, case):
    assert set(starts[case]) == {0, 1}
    for found in starts[case].values():
        assert found.unread > 0
        assert found.wrong == []
