"""Groups from tree search: what the samples of a branching are and are worth, and a step that trains on them."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mmrl.api import trainer as make_trainer
from mmrl.config import ConfigError, load
from mmrl.training.cursor import Cursor
from mmrl.training.rollouts.branching import branched
from mmrl.training.run_folder import released
from mmrl.types import Group

REWARD = "def even(completions):\n    return [float(len(c) % 2 == 0) for c in completions]\n"


@pytest.fixture
def config(tmp_path):
    (tmp_path / "even.py").write_text(REWARD, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")

    def make(**stage):
        tree = {"iterations": 4, "children": 3, "depth": 4, "step_end": "a", "step_tokens": 6}
        return load(
            {
                "name": "tree",
                "modality": "text",
                "out": str(tmp_path / "runs"),
                "threads": 1,
                "model": {"path": "built", "build": {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1}},
                "data": {"prompts": str(tmp_path / "prompts.txt")},
                "rewards": [{"name": f"{tmp_path / 'even.py'}:even"}],
                "stages": [{"kind": "grpo", "steps": 1, "groups": 3, "tree": tree, **stage}],
            }
        )

    return make


@pytest.fixture
def trainer(config):
    made = make_trainer(config(), quiet=True)
    made.adapter.stop_ids = tuple(range(100))  # so that an untrained model ends its answers
    with released(made.run.folder):
        yield made


def branchings(loop, step):
    run = loop.run
    questions = [Group(p, i) for i, p in enumerate(run.data.prompts)]
    return branched(run, run.config.stages[0], questions, step, seed=0, cursor=Cursor())


def test_a_tree_of_candidates_is_searched_in_an_order_that_is_drawn_for_it(config, tmp_path):
    rows = [{"id": i, "prompt": "Which?", "candidates": ["cat", "a dog"], "shares": [1, 0]} for i in "abcdefgh"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = config().model_dump(mode="json")
    values["data"]["prompts"], values["environment"] = str(tmp_path / "pairs.jsonl"), {"name": "pairs"}
    values["stages"][0]["tree"]["least_spread"] = 0.0
    made = make_trainer(load(values), quiet=True)
    made.adapter.stop_ids = tuple(range(100))
    with released(made.run.folder):
        orders = {}
        for group in branchings(made, step=0):
            told = {tuple(sample.info["order"]) for sample in group.samples}
            assert told == {tuple(group.prompt.record["order"])}
            orders.setdefault(group.prompt.id.partition("/")[0], set()).update(told)
    assert len(orders) > 3 and all(len(of_tree) == 1 for of_tree in orders.values())
    assert set().union(*orders.values()) == {(0, 1), (1, 0)}


def test_samples_are_the_steps_behind_a_path_and_replay_as_they_were_sampled(trainer):
    groups, prompts = branchings(trainer, step=0), trainer.run.data.prompts
    assert groups and len({g.index for g in groups}) == len(groups)
    for group in groups:
        assert group.index < 12  # 3 questions x 4 iterations
        assert group.prompt.id.split("/")[0] == prompts[group.index % 3].id
        starts = {tuple(s.trajectory.tensors["prompt"].tolist()) for s in group.samples}
        assert len(starts) == 1 and len(group.samples) == 3  # all branch off the same path
        for sample in group.samples:
            text, length = sample.artifact, len(sample.trajectory.logp)
            assert "a" not in text[:-1] and length <= 6
            assert sample.stop == ("step" if text.endswith("a") else sample.stop)
            score = sample.scores["tree"]
            assert score.value == pytest.approx(math.log(1 + 10 * score.details["mean"]) / math.log(11))
            assert sample.scores["even.even"].status == "na"
    samples = [s for g in groups for s in g.samples]
    for part in trainer.adapter.slices(samples, 10**6):
        replay = trainer.adapter.logprobs([samples[r] for r in part.rows], part.columns).logp
        for line, row in zip(replay, part.rows):
            stored = samples[row].trajectory.logp
            torch.testing.assert_close(line[: len(stored)].detach(), stored, rtol=0, atol=1e-5)


def test_only_branchings_with_a_spread_are_groups(trainer):
    for group in branchings(trainer, step=1):
        values = [s.scores["tree"].value for s in group.samples]
        assert max(values) - min(values) >= 0.1


def test_a_run_trains_on_trees(trainer):
    before = {name: p.detach().clone() for name, p in trainer.adapter.trainable_parameters().items()}
    trainer.train()
    assert any(not torch.equal(p, before[name]) for name, p in trainer.adapter.trainable_parameters().items())
    assert trainer.stage.algorithm.advantage.name == "group_std"


def test_trees_refuse_what_they_cannot_go_with(config):
    with pytest.raises(ConfigError, match="tree goes without refill, staleness"):
        config(refill=2, staleness=1)
