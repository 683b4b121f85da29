"""Policies that hear over vLLM itself: its processor and its tower hear what the policy's do, after every update.

Run with `make test-vllm`. Only the adapter's public API is used.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from mmrl.modalities.audio.tiny import build
from mmrl.modalities.load import adapter_class
from mmrl.modalities.tokens.outside import merged_weights
from mmrl.types import Group, Prompt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),  # the first import compiles and reads gigabytes
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
TOLERANCE = 2e-5
MEMORY = {} if torch.cuda.is_available() else {"kv_cache_memory_bytes": 64 << 20}
ENGINE = {"dtype": "float32", "max_model_len": 512, "options": MEMORY}
# vLLM's Qwen2-Audio takes windows of 30 s and no other.
BUILD = {"hidden": 128, "layers": 2, "heads": 4, "kv_heads": 2, "context": 512, "seconds": 30}


def tone(pitch: float, seconds: float) -> tuple[np.ndarray, int]:
    time = np.arange(int(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * pitch * time * (1 + 0.2 * time))).astype(np.float32), 16_000


# One sound, two of different lengths in the middle of words, and none.
PROMPTS = [
    Prompt("one", "<audio>What is this?", {"sounds": [tone(300, 1.3)]}),
    Prompt("two", "first <audio> then <audio> which?", {"sounds": [tone(500, 0.4), tone(900, 2.1)]}),
    Prompt("none", "only words", {}),
]


def roll(policy, step):
    groups = policy.rollout([Group(p, i) for i, p in enumerate(PROMPTS)], 3, step, 0)
    return [sample for group in groups for sample in group.samples]


def gap(samples) -> float:
    """Largest |log-prob that vLLM reported - the trainer's own|, over all trained tokens."""
    pairs = [(s.trajectory.tensors["logp_sampler"], s.trajectory.logp, s.trajectory.mask) for s in samples]
    assert all(mask.any() for *_, mask in pairs)
    return max(float((theirs - ours)[mask].abs().max()) for theirs, ours, mask in pairs)


def written(kind, folder):
    """A folder of a random model as its checkpoints are, whatever transformers makes of the names."""
    from safetensors.torch import save_file

    model, processor = build(kind, **BUILD)
    weights = {name: tensor.contiguous().clone() for name, tensor in merged_weights(model)}
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["qwen2_audio"])
def test_vllm_hears_what_the_policy_hears(kind, tmp_path):
    """Before and behind an update of decoder and tower, which moves log-probs by more than 1000 tolerances."""
    adapter = adapter_class("audio")
    section = {
        "path": written(kind, tmp_path),
        "audio": "trained",
        "sampling": {"temperature": 0.9, "max_tokens": 12},
        "engine": {"name": "vllm", "options": ENGINE},
    }
    policy = adapter(adapter.Config(**section))
    try:
        samples = roll(policy, 0)
        gaps = [gap(samples)]
        optimizer = torch.optim.AdamW(policy.trainable_parameters().values(), lr=0.01)
        columns = torch.arange(12)
        before = policy.logprobs(samples, columns).logp
        before.sum().backward()
        optimizer.step()
        with torch.no_grad():
            assert float((policy.logprobs(samples, columns).logp - before).abs().max()) > 1000 * TOLERANCE
        gaps.append(gap(roll(policy, 1)))
    finally:
        policy.close()
    print(f"log-prob differences {', '.join(f'{g:.1e}' for g in gaps)}")
    assert max(gaps) < TOLERANCE
