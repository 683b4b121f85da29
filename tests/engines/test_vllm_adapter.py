"""The text adapter over vLLM itself: what vLLM reports equals the trainer's replay after every optimizer step.

Run with `make test-vllm`. Only the adapter's public API is used, and `mmrl.train`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mmrl
from mmrl.engines.agreement import EngineMismatch
from mmrl.engines.base import here
from mmrl.engines.vllm import VllmEngine
from mmrl.modalities.load import adapter_class
from mmrl.types import Group, Prompt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),  # the first import compiles and reads gigabytes
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
ROOT = Path(__file__).parents[2]
TOLERANCE = 2e-5
MEMORY = {} if torch.cuda.is_available() else {"kv_cache_memory_bytes": 64 << 20}
COLOCATED = {"dtype": "float32", "max_model_len": 96, "options": MEMORY}
RUNTIME_LORA = {**COLOCATED, "lora": True, "options": {**MEMORY, "max_lora_rank": 8}}
LORA = {"train": "lora", "lora": {"rank": 8, "alpha": 16}}
BUILD = {"kind": "qwen2", "hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "context": 128, "chat": False}
PROMPTS = [Prompt("a", "12+3="), Prompt("b", "What is 5 times 7?"), Prompt("c", "say")]


def model(engine, **options):
    """The `model:` section of a tiny float32 model that vLLM samples from."""
    build = {**BUILD, **options.pop("build", {})}
    sampling = options.pop("sampling", {"temperature": 0.9, "max_tokens": 16})
    return {"path": "built", "build": build, "chat": "off", "sampling": sampling, **options, "engine": engine}


def make(section):
    adapter = adapter_class("text")
    return adapter(adapter.Config(**section))


def roll(policy, step):
    groups = policy.rollout([Group(p, i) for i, p in enumerate(PROMPTS)], 4, step, 0)
    return [sample for group in groups for sample in group.samples]


def gap_to_replay(policy, samples) -> float:
    """Largest |log-prob that vLLM reported - log-prob of the policy as it is now|, over all tokens."""
    worst, seen = 0.0, 0
    for part in policy.slices(samples, 256):
        with torch.no_grad():
            logp = policy.logprobs([samples[r] for r in part.rows], part.columns).logp
        for line, row in zip(logp, part.rows.tolist()):
            reported = samples[row].trajectory.tensors["logp_sampler"]
            worst = max(worst, float((line[: len(reported)] - reported).abs().max()))
            seen += len(reported)
    assert seen == sum(len(s.trajectory.logp) for s in samples) > 100
    return worst


def improve(policy, optimizer, samples) -> None:
    """One step of AdamW on -sum(advantage * log-prob), where even ids are the better ones."""
    for part in policy.slices(samples, 256):
        chosen = [samples[r] for r in part.rows]
        logp = policy.logprobs(chosen, part.columns).logp
        even = [torch.where(s.trajectory.tensors["ids"] % 2 == 0, 1.0, -1.0) for s in chosen]
        advantage = torch.nn.utils.rnn.pad_sequence(even, batch_first=True)[:, part.columns]
        (-(advantage * logp).sum() / len(samples)).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def follow(policy, updates=2, rate=0.01) -> list[float]:
    """Gaps before and after each update; an update alone moves the log-probs by more than 1000 tolerances."""
    optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=rate)
    samples = roll(policy, 0)
    gaps = [gap_to_replay(policy, samples)]
    for step in range(1, updates + 1):
        improve(policy, optimizer, samples)
        assert gap_to_replay(policy, samples) > 1000 * TOLERANCE
        samples = roll(policy, step)
        gaps.append(gap_to_replay(policy, samples))
    return gaps


@pytest.mark.parametrize(
    ("trained", "engine", "kind", "tied"),
    [({}, COLOCATED, "llama", False), (LORA, COLOCATED, "qwen3", True), (LORA, RUNTIME_LORA, "qwen2", False)],
    ids=["full-llama", "lora-merged-qwen3", "lora-runtime-qwen2"],
)
def test_vllm_follows_every_optimizer_step(trained, engine, kind, tied):
    section = model({"name": "vllm", "options": engine}, build={"kind": kind, "tied": tied}, **trained)
    policy = make(section)
    try:
        gaps = follow(policy)
    finally:
        policy.close()
    print(f"log-prob differences {', '.join(f'{gap:.1e}' for gap in gaps)}")
    assert len(gaps) == 3 and max(gaps) < TOLERANCE


def test_a_server_follows_every_optimizer_step(text_server, tmp_path):
    """Adapters over the weights that the server began with, then those weights trained."""
    url, base = text_server
    options = {"url": url, "folder": str(tmp_path / "weights")}
    restore(url, base)
    gaps = []
    for trained in (LORA, {}):
        engine = {"mode": "server", "dtype": "float32", "lora": bool(trained), "options": options}
        section = model({"name": "vllm", "options": engine}, **trained)
        policy = make({**section, "path": str(base), "build": None})
        gaps += follow(policy)
        policy.close()
    print(f"log-prob differences over HTTP {', '.join(f'{gap:.1e}' for gap in gaps)}")
    assert len(gaps) == 6 and max(gaps) < TOLERANCE


def restore(url, base):
    """The weights that the server began with, whatever a test before left there."""
    engine = VllmEngine(base, mode="server", options={"url": url})
    engine.sync(load_file(base / "model.safetensors").items(), 1)
    engine.close()


CUT = {"temperature": 0.9, "top_k": 40, "top_p": 0.8}


def test_rollouts_inside_of_synced_use_the_weights_it_began_with_and_others_are_noticed():
    """Also where top-k and top-p cut the distribution; the room for prompts is the engine's."""
    policy = make(model({"name": "vllm", "options": COLOCATED}, sampling={**CUT, "max_tokens": 16}))
    optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=0.01)
    assert policy.usable(Prompt("fits", "a" * 60)) is None and "80 is the most" in policy.usable(Prompt("c", "a" * 81))
    with policy.synced(here):
        roll(policy, 0)
        samples = roll(policy, 1)
        improve(policy, optimizer, samples)
        with pytest.raises(EngineMismatch):
            roll(policy, 2)
    for sample in roll(policy, 3):
        cut = sample.trajectory.tensors["logp_sampler"] - sample.trajectory.logp
        assert bool((cut > -TOLERANCE).all()) and float(cut.mean()) > 0.02
    policy.close()


REWARD = """
def even(samples):
    return [float((s.trajectory.tensors["ids"] % 2 == 0).float().mean()) for s in samples]
"""


def training(folder, section, **stage):
    """The config of a training in which even ids are the better ones."""
    (folder / "mine.py").write_text(REWARD, encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(p.text for p in PROMPTS), encoding="utf-8")
    options = {"steps": 12, "groups": 3, "samples": 8, "updates": 3, "micro_batch": 512, "rollout_chunk": 1, **stage}
    algorithm = {"preset": "grpo", "correction": "truncate"}
    return {
        "name": "run",
        "out": str(folder / "runs"),
        "modality": "text",
        "model": section,
        "data": {"prompts": str(folder / "prompts.txt")},
        "rewards": [{"name": f"{folder / 'mine.py'}:even"}],
        "stages": [{"kind": "grpo", **options, "optim": {"lr": 0.01}, "algorithm": algorithm}],
        "threads": 1,
        "device": "cpu",
    }


def rows_of(config) -> list[dict]:
    lines = (Path(config["out"]) / config["name"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_whole_training_is_corrected_by_nearly_nothing(tmp_path):
    section = model({"name": "vllm", "options": COLOCATED, "tolerance": 4 * TOLERANCE})
    config = training(tmp_path, section)
    mmrl.train(config, quiet=True)
    rows = rows_of(config)
    assert len(rows) == 12
    for row in rows:
        assert row["rollout/ratio_mean"] == pytest.approx(1, abs=TOLERANCE)
        assert row["rollout/ratio_max"] == pytest.approx(1, abs=2 * TOLERANCE)
        assert row["rollout/ess"] == pytest.approx(1, abs=1e-9)
        assert abs(row["rollout/k1"]) < TOLERANCE and abs(row["rollout/k3"]) < TOLERANCE**2
        assert row["rollout/cut"] == 0
        # Of three updates with a group each, one behind a first that had a signal: the policy does move.
        assert row["ratio/max_dev"] > 1000 * TOLERANCE or row["group/zero_variance"] > 0.5
    reward = [row["reward/mean"] for row in rows]
    largest = max(row["rollout/ratio_max"] for row in rows) - 1
    print(f"reward {', '.join(f'{r:.2f}' for r in reward)}; largest ratio 1 + {largest:.1e}")
    assert sum(reward[-3:]) / 3 > sum(reward[:3]) / 3 + 0.1


@pytest.mark.parametrize("mode", ["server", "colocated"])
def test_two_processes_sample_from_a_server_or_each_from_its_own_engine(mode, text_server, tmp_path):
    """Both compare every rollout with their own weights, to the tolerance, and would stop where it is exceeded."""
    url, base = text_server
    served = {"mode": "server", "options": {"url": url, "folder": str(tmp_path / "weights")}}
    engine = {"name": "vllm", "options": served if mode == "server" else COLOCATED, "tolerance": 4 * TOLERANCE}
    config = training(tmp_path, {**model(engine), "path": str(base), "build": None}, steps=3)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "train.py").write_text("import sys, mmrl; mmrl.train(sys.argv[1], quiet=True)", encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "train.py"), str(tmp_path / "config.json")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = rows_of(config)
    assert len(rows) == 3 and all(row["rollout/ratio_max"] < 1 + 2 * TOLERANCE for row in rows)
    assert all(row["ratio/max_dev"] > 1000 * TOLERANCE for row in rows)
