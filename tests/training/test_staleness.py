"""Rollouts that are used k steps after they were sampled: whose weights, which ratios, and the rule that drops."""

from __future__ import annotations

import pytest
import torch
from answers import LETTERS, make, ranks

from mmrl.config import ConfigError
from mmrl.training.stages.experience import columns
from mmrl.types import Prompt, Sample

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i)) for i in range(12)]


@pytest.fixture
def values(tmp_path):
    """values(**stage options) -> a config of 6 steps of 4 prompts x 4 answers; the reward counts the letter a."""
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")

    def config(name="run", **stage):
        base = {"kind": "grpo", "steps": 6, "groups": 4, "samples": 4, "micro_batch": 20, "optim": {"lr": 0.05}}
        return {
            "name": name,
            "out": str(tmp_path),
            "data": {"prompts": "unused.txt"},
            "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
            "stages": [{**base, **stage}],
            "report": {"samples_every": 0},
        }

    return config


def by_hand(table, sample):
    """Log-probs of an answer's letters under a table of next letters."""
    text = sample.artifact + ("." if len(sample.trajectory.logp) > len(sample.artifact) else "")
    before = ["", *text[:-1]]
    rows = [table[len(sample.prompt.text) % 3, LETTERS.index(b) if b else 4].log_softmax(-1) for b in before]
    return torch.stack([row[LETTERS.index(letter)] for row, letter in zip(rows, text)])


@pytest.mark.parametrize("k", [0, 1, 2, 5, 9])
def test_every_step_uses_the_answers_of_k_steps_before(values, k):
    tables, used, rows = [], [], []

    def watch(point):
        if point == "update":
            used.append([s for g in trainer.stage.rollouts.queue[0] for s in g.samples])
        if point == "step" or not tables:
            tables.append(trainer.adapter.table.detach().clone())
        return False

    trainer = make(values(staleness=k), PROMPTS, should_stop=watch)
    trainer._log = rows.append
    trainer.train()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for step, samples in enumerate(used):
        version = max(step - k, 0)
        assert {s.version for s in samples} == {version}
        for sample in samples:  # what is stored is what those weights gave
            assert torch.allclose(by_hand(tables[version], sample).float(), sample.trajectory.logp, atol=1e-6)
        ratios = torch.cat([(by_hand(tables[step], s) - s.trajectory.logp).exp() for s in samples if s.advantage])
        assert rows[step]["ratio/max_dev"] == pytest.approx(float((ratios - 1).abs().max()), rel=1e-4, abs=1e-6)
        if k:
            assert rows[step]["rollout/age"] == min(step, k)
    assert trainer.stage.rollouts.queue == []


def test_a_queue_changes_when_answers_are_drawn_and_not_which_prompts_are_asked(values):
    def asked(k):
        seen = []

        def watch(point):
            if point == "update":
                seen.append([g.prompt.id for g in trainer.stage.rollouts.queue[0]])
            return False

        trainer = make(values(staleness=k), PROMPTS, should_stop=watch)
        trainer.train()
        return seen

    assert len(asked(0)) == 6
    assert asked(0) == asked(3)


def test_two_processes_share_the_queue_and_give_the_numbers_of_one(values):
    stage = {"staleness": 2, "updates": 2, "epochs": 2, "algorithm": {"advantage": "group_mean"}}

    def run(name, **options):
        rows = []
        trainer = make(values(name, **stage), PROMPTS, **options)
        trainer._log = rows.append
        trainer.train()
        return trainer.adapter.table.detach().clone(), rows

    table, rows = run("one")
    assert any(row["clip/low"] + row["clip/high"] > 0 for row in rows)
    for other, others in ranks(lambda processes: run("two", processes=processes)):
        torch.testing.assert_close(other, table, rtol=1e-6, atol=1e-7)
        for left, right in zip(rows, others, strict=True):
            for key in ("reward/mean", "rollout/age", "ratio/max_dev", "clip/low", "clip/high"):
                assert right[key] == pytest.approx(left[key], rel=1e-5, abs=1e-7), key


def test_the_policy_before_an_update_is_asked_for_where_the_rollout_is_not_its_own(values):
    """BAPO searches its bounds from the policy's own log-probs: of a fresh rollout they are those that were stored."""
    make(values(algorithm={"preset": "bapo"}), PROMPTS).train()
    with pytest.raises(ValueError, match="needs logp of every action, and Answers has no `features`"):
        make(values("stale", algorithm={"preset": "bapo"}, staleness=1), PROMPTS).train()


def test_the_version_column_is_that_of_each_sample():
    samples = [Sample(PROMPTS[0], 0, "", version=4), Sample(PROMPTS[0], 1, "", version=7)]
    assert columns(samples, ["version"])["version"].tolist() == [4, 7]


def test_a_filter_that_would_drop_every_stale_rollout_is_refused(values):
    def loaded(**options):
        stage = {"staleness": 3, "algorithm": {"filters": [{"name": "staleness", **options}]}}
        return make(values(**stage)).run.config

    assert loaded().stages[0].staleness == 3  # by default the filter keeps up to 8
    assert loaded(most=3).stages[0].staleness == 3
    with pytest.raises(ConfigError, match=r"staleness=3 makes rollouts that the filter staleness \(most 2\) drops"):
        loaded(most=2)
