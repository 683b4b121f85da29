"""Vision-language policies over vLLM itself: its processor and its tower see what the policy's do, after every update.

Run with `make test-vllm`. Only the adapter's public API is used, and `mmrl.train`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmrl
from mmrl.config import load
from mmrl.modalities.load import adapter_class
from mmrl.types import Group, Prompt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),  # the first import compiles and reads gigabytes
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
TOLERANCE = 2e-5
ROUNDING = 1e-4  # of the model that ships, whose weights are wider
MEMORY = {} if torch.cuda.is_available() else {"kv_cache_memory_bytes": 64 << 20}
COLOCATED = {"dtype": "float32", "max_model_len": 512, "options": MEMORY}
RUNTIME_LORA = {**COLOCATED, "lora": True, "options": {**MEMORY, "max_lora_rank": 8}}
LORA = {"train": "lora", "lora": {"rank": 8, "alpha": 16}}
BUILD = {"hidden": 128, "layers": 2, "heads": 4, "kv_heads": 2, "context": 512}


def noise(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# One picture, two of different shapes in the middle of words, and none.
PROMPTS = [
    Prompt("one", "<image>What is this?", {"images": [noise(0, 90, 70)]}),
    Prompt("two", "first <image> then <image> which?", {"images": [noise(1, 90, 70), noise(2, 60, 120)]}),
    Prompt("none", "only words", {}),
]


def model(engine, **options):
    """The `model:` section of a tiny float32 model that vLLM samples from."""
    build = {**BUILD, **options.pop("build", {})}
    sampling = {"temperature": 0.9, "max_tokens": 12}
    return {
        "path": "built",
        "build": build,
        "sampling": sampling,
        "engine": {"name": "vllm", "options": engine},
        **options,
    }


def make(section):
    adapter = adapter_class("vision")
    return adapter(adapter.Config(**section))


def roll(policy, step, prompts=PROMPTS):
    groups = policy.rollout([Group(p, i) for i, p in enumerate(prompts)], 3, step, 0)
    return [sample for group in groups for sample in group.samples]


def gap(samples) -> float:
    """Largest |log-prob that vLLM reported - the trainer's own|, over all trained tokens."""
    pairs = [(s.trajectory.tensors["logp_sampler"], s.trajectory.logp, s.trajectory.mask) for s in samples]
    assert all(mask.any() for *_, mask in pairs)
    return max(float((theirs - ours)[mask].abs().max()) for theirs, ours, mask in pairs)


def replayed(policy, samples) -> torch.Tensor:
    """Log-probs of the policy as it is now, of all tokens in one row."""
    slices = policy.slices(samples, 4096)
    parts = [policy.logprobs([samples[r] for r in part.rows], part.columns).logp for part in slices]
    return torch.cat([p.flatten() for p in parts])


def follow(policy, updates=1) -> list[float]:
    """Gaps before and after each update; an update alone moves the log-probs by more than 1000 tolerances."""
    optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=0.01)
    samples = roll(policy, 0)
    gaps = [gap(samples)]
    for step in range(1, updates + 1):
        before = replayed(policy, samples)
        before.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            assert float((replayed(policy, samples) - before).abs().max()) > 1000 * TOLERANCE
        samples = roll(policy, step)
        gaps.append(gap(samples))
    return gaps


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qwen2_vl", {"vision": "trained"}),
        ("qwen2_5_vl", {"min_pixels": 28 * 28 * 8, "max_pixels": 28 * 28 * 10}),
        ("qwen3_vl", {"vision": "trained"}),
        ("internvl", {"vision": "trained", "build": {"tiles": 4}}),
        ("idefics3", {"vision": "trained", "build": {"tiles": 2}}),
        ("smolvlm", {"vision": "trained"}),
        ("qwen2_5_vl", LORA),
        ("qwen2_5_vl", {**LORA, "engine": RUNTIME_LORA}),
    ],
    ids=["qwen2", "pixels", "qwen3", "internvl", "idefics3", "smolvlm", "lora-merged", "lora-runtime"],
)
def test_vllm_sees_what_the_policy_sees(kind, options):
    if kind == "smolvlm" and importlib.util.find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words")
    rest = {key: value for key, value in options.items() if key not in ("build", "engine")}
    build = {"kind": kind, **options.get("build", {})}
    policy = make(model(options.get("engine", COLOCATED), build=build, **rest))
    try:
        gaps = follow(policy)
    finally:
        policy.close()
    print(f"log-prob differences {', '.join(f'{g:.1e}' for g in gaps)}")
    assert len(gaps) == 2 and max(gaps) < TOLERANCE


def test_another_processor_is_told():
    """Prompts of which vLLM makes other ids than the policy are never sampled from in silence."""
    pixels = {"size": {"shortest_edge": 784, "longest_edge": 1568}}
    other = {**COLOCATED, "options": {**MEMORY, "mm_processor_kwargs": pixels}}
    policy = make(model(other, build={"kind": "qwen2_5_vl"}))
    try:
        with pytest.raises(RuntimeError, match="both must have the same processor"):
            roll(policy, 0)
    finally:
        policy.close()


def test_a_training_over_vllm_learns_and_has_nothing_to_correct(tmp_path: Path):
    """The model that ships, in two turns of which the second shows a part of the picture enlarged."""
    engine = {"max_model_len": 256, "options": MEMORY}
    overrides = {
        "name": "run",
        "out": str(tmp_path),
        "threads": 1,
        "device": "cpu",
        "model": {"engine": {"name": "vllm", "options": engine, "tolerance": ROUNDING}},
        "data": {"eval_prompts_count": 100},
        "eval": {"every": 0},
    }
    config = load("vision/mgpo_tiny").model_dump(mode="json")
    for key, value in overrides.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    config["stages"][0] |= {"steps": 12}
    config["stages"][0]["algorithm"] |= {"correction": "truncate"}
    mmrl.train(config, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "rollout/ratio_max" in row]
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["eval"]
    assert len(rows) == 12 and max(row["rollout/ratio_max"] for row in rows) < 1 + 2 * ROUNDING
    assert found["after"]["eval/exact.match"] > found["before"]["eval/exact.match"] + 0.1
    assert rows[-1]["env/crop/ok"] > 0.5


def test_a_server_sees_what_the_policy_sees(serve, tmp_path):
    """Pictures and ids over HTTP, adapters over the weights that the server began with, then those weights trained."""
    first = make(model({}, build={"kind": "qwen2_5_vl"}) | {"engine": {"name": "transformers"}})
    first.save(tmp_path / "base")
    url = serve(tmp_path / "base", "--max-model-len", "512", "--enable-lora", "--max-lora-rank", "8")
    options = {"url": url, "folder": str(tmp_path / "weights")}
    gaps = []
    for trained in (LORA, {"vision": "trained"}):
        engine = {"mode": "server", "dtype": "float32", "lora": trained is LORA, "options": options}
        policy = make({**model(engine, **trained), "path": str(tmp_path / "base"), "build": None})
        gaps += follow(policy)
        policy.close()
    print(f"log-prob differences over HTTP {', '.join(f'{g:.1e}' for g in gaps)}")
    assert len(gaps) == 4 and max(gaps) < TOLERANCE
