"""Two processes, one of which has only texts, train a vision tower as one process does (trap T14)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import saved
import torch
from PIL import Image

# Each prompt's samples are ranked by their letters, so that every group has something to say.
REWARD = """
def ranked(samples):
    return [sum(map(ord, s.artifact)) % 97 / 97 for s in samples]
"""

JOB = """
import json, sys
from pathlib import Path

import torch
import mmrl

torch.set_num_threads(1)
mmrl.train(json.loads(Path(sys.argv[1]).read_text()), quiet=True)
"""


@pytest.fixture
def config(tmp_path: Path, helpers):
    """config(name) -> a run of one step of two updates on a picture and a text, whatever trains it."""
    Image.linear_gradient("L").resize((48, 32)).save(tmp_path / "a.png")
    records = [{"id": "seen", "prompt": "What is it?", "images": ["a.png"]}, {"id": "read", "prompt": "12+30="}]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    (tmp_path / "ranked.py").write_text(REWARD, encoding="utf-8")
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    build = {"kind": "qwen2_5_vl", "hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_hidden": 32,
             "vision_heads": 2, "patch": 8}  # fmt: skip

    def make(name: str) -> dict:
        stage = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 4, "epochs": 2, "micro_batch": 200,
                 # A large eps: Adam divides by the size of a gradient, and would blow up the rounding of a tiny one.
                 "optim": {"lr": 1e-2, "eps": 1e-3}}  # fmt: skip
        return {
            "name": name,
            "modality": "vision",
            "out": str(tmp_path / "runs"),
            "device": "cpu",
            "threads": 1,
            "model": {"path": "built", "build": build, "vision": "trained", "sampling": {"max_tokens": 8}},
            "data": {"prompts": str(tmp_path / "records.jsonl")},
            "rewards": [{"name": f"{tmp_path / 'ranked.py'}:ranked"}],
            "stages": [stage],
        }

    return make


def test_a_process_without_pictures_takes_part_in_the_tower_s_update(config, helpers, tmp_path):
    one, two = config("one"), config("two")
    (tmp_path / "two.json").write_text(json.dumps(two), encoding="utf-8")
    process = helpers.two_processes(str(tmp_path / "job.py"), str(tmp_path / "two.json"))
    helpers.train(one)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-4000:]

    found = {}
    for made in (one, two):
        state = saved.tensors(Path(made["out"]) / made["name"] / "checkpoints/latest")
        found[made["name"]] = {k: v for k, v in state.items() if "/param/" in k}
    start = {name: p.detach() for name, p in started(one).model.named_parameters()}
    moved = 0.0
    for name, value in found["one"].items():
        torch.testing.assert_close(found["two"][name], value, rtol=1e-4, atol=2e-5, msg=name)
        if ".visual." in name:
            moved = max(moved, float((value - start[name.partition("/param/")[2]]).abs().max()))
    assert found["one"].keys() == found["two"].keys() and moved > 1e-3


def started(config):
    from mmrl.config import load
    from mmrl.training.assemble import load_adapter

    return load_adapter(load(config))
