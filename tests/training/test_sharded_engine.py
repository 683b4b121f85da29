"""An engine in each process, and divided weights: it gets them part by part, and the run is the one without shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from divided import merged
from safetensors.torch import load_file

from mmrl.share import resolve

BASE = {
    "modality": "text",
    "device": "cpu",
    "threads": 1,
    "model": {"path": "share://assets/text-tiny", "chat": "off", "sampling": {"max_tokens": 12, "temperature": 1.8}},
    "data": {"prompts": "share://datasets/arithmetic/arithmetic.py:problem", "prompts_count": 40},
    "report": {"samples_every": 0},
}
SEVENS = "def letters(samples):\n    return [float(sum(map(ord, s.artifact)) % 7) for s in samples]\n"
STAGE = {"kind": "grpo", "steps": 3, "groups": 3, "samples": 4, "micro_batch": 400, "optim": {"lr": 1e-3, "eps": 1e-3}}
LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}
# KL off the reward and a correction need forwards of their own; groups are asked for again; three for two processes.
KINDS = {
    "full": ({}, {"sleep": 2}, STAGE | {"refill": 2}),
    "merged": (LORA, {}, STAGE | {"staleness": 1, "algorithm": {"correction": "truncate"}}),
    "files": (LORA, {"lora": True}, STAGE),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, helpers):
    """The folders of runs (kind, shards), all of two processes."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "sevens.py").write_text(SEVENS, encoding="utf-8")
    jobs = []
    for kind, (model, engine, stage) in KINDS.items():
        for shards in (1, 2):
            sampler = {"name": "vllm", "options": {"max_model_len": 96, **engine}}
            own = {"name": f"{kind}_{shards}", "out": str(folder), "model": {"engine": sampler, **model}}
            own |= {"stages": [stage], "rewards": [{"name": f"{folder / 'sevens.py'}:letters"}]}
            jobs.append(merged(BASE, own | ({"sharding": {"shards": shards}} if shards > 1 else {})))
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    process = helpers.torchrun(str(Path(__file__).with_name("copying.py")), str(folder / "jobs.json"))
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-3000:] + out[-1000:]
    return {(kind, shards): folder / f"{kind}_{shards}" for kind in KINDS for shards in (1, 2)}


def seen(folder):
    return [json.loads((folder / f"seen_{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def weights(folder):
    (file,) = (folder / "checkpoints" / "latest" / "policy").glob("*model.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_run_is_the_one_without_shards(kind, runs):
    whole, divided = runs[kind, 1], runs[kind, 2]
    drawn = [one["ids"][1:] for one in seen(whole)]  # behind the contract's check, which divided weights go without
    assert drawn == [one["ids"] for one in seen(divided)]
    wanted, found = weights(whole), weights(divided)
    assert wanted.keys() == found.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5)
    rows = [json.loads(line) for line in (divided / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 3 and all(row["rollout/ratio_max"] < 1 + 1e-4 for row in rows)
    start = load_file(resolve("share://assets/text-tiny") / "model.safetensors")
    moved = [float((w - start[k]).abs().max()) for k, w in wanted.items() if k in start]
    moved += [float(w.abs().max()) for k, w in wanted.items() if "lora_B" in k]
    assert max(moved) > 1e-4


@pytest.mark.slow
def test_no_process_holds_all_weights_while_the_engine_is_brought_up_to_date_or_samples(runs):
    """Nothing is gathered where a weight is handed on, and nothing while completions are drawn."""
    for (_, shards), folder in runs.items():
        for one in seen(folder):
            assert one["sampling"] == one["loading"] == 0 if shards > 1 else one["ids"]
            assert len(one["ids"]) >= 3
            # It sleeps where the policy replays what was sampled, and where it is evaluated.
            assert shards == 1 or one["beside"] == 0
