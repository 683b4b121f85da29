"""Objectives of the library in whole runs on a tiny language model: what they need is found, and they train."""

from __future__ import annotations

import json

import pytest
import torch

import mmrl

REWARDS = """
def short(samples):
    return [float(len(s.artifact) < 3) for s in samples]

def vowels(samples):
    return [sum(c in "aeiou" for c in s.artifact) / 8 for s in samples]

def levels(samples):
    from mmrl.types import Score
    return [Score(float(len(s.artifact) % 3), details={"level": 1 + len(s.artifact) % 3}) for s in samples]
"""
MODEL = {
    "path": "built",
    "build": {"kind": "qwen2", "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "context": 128, "chat": False},
    "chat": "off",
    "sampling": {"max_tokens": 6},
}


@pytest.fixture
def run(tmp_path):
    """run(algorithm, reward=..., **stage options) -> (rows of metrics.jsonl, config)."""
    (tmp_path / "mine.py").write_text(REWARDS)
    prompts = [{"id": f"p{i}", "prompt": "say " * (1 + i % 3), "hard": i % 2, "solution": "aeiou"} for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))

    def go(algorithm, reward="vowels", data=None, **stage):
        config = {
            "name": "run",
            "out": str(tmp_path / "runs"),
            "modality": "text",
            "model": MODEL,
            "data": data or {"prompts": str(tmp_path / "prompts.jsonl")},
            "rewards": [{"name": f"{tmp_path / 'mine.py'}:{reward}"}],
            "stages": [
                {
                    "kind": "grpo",
                    "steps": 2,
                    "groups": 4,
                    "samples": 4,
                    "updates": 2,
                    "micro_batch": 64,
                    "optim": {"lr": 0.01},
                    "algorithm": algorithm,
                    **stage,
                }
            ],
            "report": {"samples_every": 1},
            "threads": 1,
            "device": "cpu",
        }
        mmrl.train(config, fresh=True, quiet=True)
        lines = (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return go


@pytest.mark.parametrize(
    "algorithm",
    [
        {"preset": "bapo"},
        {"preset": "lp_reg", "terms": [{"name": "proxy_kl", "share": 0.2}]},
        {"preset": "spine"},
        {"preset": "capo"},
        {"preset": "cad_rl", "filters": []},  # the model is random: every answer is cut off
        {"preset": "topr", "advantage": "group_mean"},
        {"preset": "stable_reinforce"},
        {"preset": "stable_reinforce_tokens"},
        {"preset": "scalerl"},
        {"preset": "top_entropy"},
        {"preset": "reinforce_pp", "advantage": "whiten_tokens"},
        {"terms": [{"name": "entropy", "coef": 0.01}, {"name": "behaviour_kl", "coef": 0.1}]},
        {"shape": [{"name": "soft_overlong", "limit": 6, "buffer": 2}], "filters": [{"name": "spread", "above": 0.0}]},
    ],
    ids=lambda a: a.get("preset", "") + "+".join(sorted(set(a) - {"preset"})),
)
def test_it_trains(run, algorithm):
    rows = run(algorithm)
    assert len(rows) == 2
    assert all(torch.tensor([r["loss"], r["grad_norm"]]).isfinite().all() for r in rows)
    assert max(r["grad_norm"] for r in rows) > 0


def test_levels_from_the_details_of_a_score_make_pairs(run):
    rows = run({"preset": "trpa"}, reward="levels")
    assert all(row["grad_norm"] > 0 and row["term/pairwise"] > 0 for row in rows)


def test_what_only_another_engine_can_give_is_asked_for_in_one_line(run):
    with pytest.raises(ValueError, match="logp_sampler"):
        run({"correction": "truncate"})


@pytest.mark.report
def test_advantages_of_tokens_reach_the_store(run, tmp_path):
    """reinforce++'s advantages differ inside a sample; the sample's own is the one farthest from 0."""
    run({"preset": "grpo", "advantage": {"name": "whiten_tokens", "beta": 0.5}})
    index = json.loads((tmp_path / "runs/run/samples/step_000002/index.json").read_text())
    samples = [s for group in index["groups"] for s in group["samples"]]
    assert any(len(set(s["actions"]["advantage"])) > 1 for s in samples)
    for sample in samples:
        assert len(sample["actions"]["advantage"]) == len(sample["actions"]["words"])
        assert max(sample["actions"]["advantage"], key=abs) == pytest.approx(sample["advantage"], abs=1e-4)
    page = (tmp_path / "runs/run/report.html").read_text(encoding="utf-8")
    assert ", advantage " in page
    run({"preset": "grpo"})
    index = json.loads((tmp_path / "runs/run/samples/step_000002/index.json").read_text())
    assert all("advantage" not in s["actions"] for group in index["groups"] for s in group["samples"])


def test_groups_without_signal_are_replaced(run):
    once = run({"preset": "grpo"}, reward="short")
    often = run({"preset": "grpo"}, reward="short", refill=6)
    assert sum(r["group/zero_variance"] for r in often) < sum(r["group/zero_variance"] for r in once)


def prompts_of(folder):
    index = json.loads((folder / "runs/run/samples/step_000001/index.json").read_text())
    return [group["prompt"]["id"] for group in index["groups"]]


def test_a_sorted_curriculum_begins_with_the_easy_prompts(run, tmp_path):
    run({"preset": "grpo"}, curriculum={"order": "sorted", "column": "hard"}, steps=1)
    assert {int(name[1:]) % 2 for name in prompts_of(tmp_path)} == {0}


def test_groups_that_are_all_wrong_get_a_hint(run, tmp_path):
    (tmp_path / "mine.py").write_text("def never(samples):\n    return [0.0] * len(samples)\n")
    run({"preset": "grpo"}, reward="never", steps=1, hints={"reward": "mine.never"})
    assert {name.partition("#")[2] for name in prompts_of(tmp_path)} == {"hint3"}


def test_a_hint_that_makes_a_prompt_too_long_is_not_given(run, tmp_path):
    """The context leaves 128 - 6 tokens for a prompt; three quarters of this solution and the sentence need more."""
    (tmp_path / "mine.py").write_text("def never(samples):\n    return [0.0] * len(samples)\n")
    records = [{"id": f"p{i}", "prompt": "say", "solution": "aeiou" * 32} for i in range(8)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    hints = {"reward": "mine.never", "sentence": "\n"}
    run({"preset": "grpo"}, reward="never", steps=1, hints=hints, data={"prompts": str(tmp_path / "long.jsonl")})
    assert {name.partition("#")[2] for name in prompts_of(tmp_path)} == {"hint2"}


def test_an_expert_pulls_the_policy_to_its_records(run, tmp_path):
    """With rewards that say nothing and mu = 1 every step is supervised: the loss of the records falls."""
    (tmp_path / "mine.py").write_text("def never(samples):\n    return [0.0] * len(samples)\n")
    (tmp_path / "records.jsonl").write_text(json.dumps({"prompt": "say ", "completion": "aeiou"}) + "\n")
    expert = {"peak": 1.0, "valley": 1.0, "batch": 2, "micro_batch": 1}
    data = {"prompts": str(tmp_path / "prompts.jsonl"), "records": str(tmp_path / "records.jsonl")}
    rows = run({"preset": "grpo"}, reward="never", steps=6, expert=expert, data=data)
    losses = [row["expert/loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1
    with pytest.raises(mmrl.ConfigError, match=r"data\.records"):
        run({"preset": "grpo"}, reward="never", expert=expert)
