"""What ratios are measured against: what was noted while sampling, or the trainer's own replay before any update."""

from __future__ import annotations

import json

import pytest
import torch
from able import values

import mmrl
from mmrl.config import GrpoStage

BUILD = {"kind": "qwen2", "hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "context": 128, "chat": False}
REWARD = "def letters(samples):\n    return [sum(map(ord, s.artifact)) % 7 for s in samples]\n"


@pytest.mark.parametrize(
    ("given", "preset", "sixteen", "replays"),
    [
        ("auto", "gspo", True, True),
        ("auto", "gspo", False, False),
        ("auto", "grpo", True, False),
        ("auto", "topr", True, True),
        ("replay", "grpo", False, True),
        ("sampler", "gspo", True, False),
    ],
)
def test_whole_sequences_in_sixteen_bits_are_replayed_unless_one_says_otherwise(given, preset, sixteen, replays):
    stage = GrpoStage(steps=1, old_logp=given, algorithm={"preset": preset, "kl_coef": 0})
    assert stage.replays_old(sixteen) is replays


def trained(folder, dtype, preset, heat=1.0, **stage):
    """Rows of metrics, and what was trained."""
    folder.mkdir()
    (folder / "prompts.txt").write_text("say\nsay say\n")
    (folder / "scores.py").write_text(REWARD)
    options = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 4, "algorithm": {"preset": preset}, **stage}
    options["optim"] = {"lr": 0.01, "eps": 1.0}  # no sign of a gradient that is only rounding
    config = values(folder, options, data={"prompts": str(folder / "prompts.txt")}, threads=1)
    config |= {
        "modality": "text",
        "model": {
            "path": "built",
            "build": BUILD,
            "chat": "off",
            "sampling": {"max_tokens": 24, "temperature": heat},
            "dtype": dtype,
        },
        "rewards": [{"name": f"{folder / 'scores.py'}:letters"}],
        "device": "cpu",
    }
    mmrl.train(config, quiet=False)
    rows = [json.loads(line) for line in next(folder.rglob("metrics.jsonl")).read_text().splitlines()]
    (policy,) = folder.rglob("step_*/policy")
    return rows, policy


def weights(policy):
    from safetensors.torch import load_file

    return load_file(policy / "model.safetensors")


def test_in_sixteen_bits_rounding_alone_leaves_gspo_s_clip_range_and_a_replay_does_not(tmp_path, capsys):
    """One update right behind the rollout: every ratio is 1, and nothing can be clipped, whatever was rounded."""
    noted, _ = trained(tmp_path / "noted", "bfloat16", "gspo", 0.1, old_logp="sampler")
    assert "set the stage's old_logp: replay" in capsys.readouterr().out
    assert noted[0]["ratio/max_dev"] > 3e-4
    replayed, _ = trained(tmp_path / "replayed", "bfloat16", "gspo", 0.1)
    assert "old_logp" not in capsys.readouterr().out
    assert replayed[0]["ratio/max_dev"] == 0
    assert replayed[0]["clip/low"] == replayed[0]["clip/high"] == 0


def test_the_sampler_s_are_kept_beside_the_replay_s(tmp_path):
    """Two updates: how far the sampler was from the replay is in the metrics."""
    rows, _ = trained(tmp_path / "two", "bfloat16", "gspo", updates=2)
    assert any(key.startswith("rollout/") for key in rows[0])
    alone, _ = trained(tmp_path / "noted", "bfloat16", "gspo", updates=2, old_logp="sampler")
    assert not any(key.startswith("rollout/") and "gap" in key for key in alone[0])


@pytest.mark.parametrize("stage", [{}, {"updates": 2}, {"staleness": 1, "steps": 3}, {"epochs": 2}])
def test_in_thirty_two_bits_both_train_the_same(tmp_path, stage):
    """There the two forwards differ by 1e-6, and so do ratios and weights."""
    first = weights(trained(tmp_path / "noted", "float32", "grpo", old_logp="sampler", **stage)[1])
    second = weights(trained(tmp_path / "replayed", "float32", "grpo", old_logp="replay", **stage)[1])
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=2e-5)
