"""Where stages, resumes and kinds of one's own meet: what a reader who had not seen the code found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from answers import Answers, AnswersConfig, make
from torch import nn

from mmrl.config import ConfigError, DataConfig, RoleConfig, Stage, load
from mmrl.data.records import Records
from mmrl.training.learner import NonFiniteError
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.stages.base import Stage as TrainingStage
from mmrl.training.stages.grpo import Grpo
from mmrl.training.stopping import Stopped
from mmrl.training.tensors import CheckpointError
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i), {"prompt": "x" * (1 + i), "answer": "a"}) for i in range(6)]
REWARDS = """
def a(samples):
    return [s.artifact.count('a') / 5 for s in samples]

def odd(samples):
    return [None if len(s.prompt.text) % 2 else s.artifact.count('a') / 5 for s in samples]

def nine(samples):
    return [float(s.index > 0) for s in samples]
"""


@pytest.fixture
def values(tmp_path):
    (tmp_path / "r.py").write_text(REWARDS, encoding="utf-8")

    def config(*stages, reward="a", **options):
        base = {"name": "run", "out": str(tmp_path), "data": {"prompts": "unused.txt"}, "report": {"samples_every": 0}}
        return {**base, "rewards": [{"name": f"{tmp_path / 'r.py'}:{reward}"}], "stages": list(stages), **options}

    return config


def grpo(**options):
    return {"kind": "grpo", "steps": 3, "groups": 2, "samples": 4, "optim": {"lr": 0.05}, **options}


def stopped_at(point, number):
    seen = []
    return lambda place: place == point and (seen.append(place) or len(seen) == number)


# ---------------------------------------------------------------- filters


FILTER = {"kind": "filter", "name": "f", "rule": "difficulty", "groups": 2, "samples": 2, "low": 0, "high": 1}


def test_a_filter_that_is_resumed_with_fewer_steps_joins_what_it_has(values, tmp_path):
    with pytest.raises(Stopped):
        make(values({**FILTER, "steps": 3}), PROMPTS, should_stop=stopped_at("step", 2)).train()
    make(values({**FILTER, "steps": 2}), PROMPTS).train(resume=True)
    assert len((tmp_path / "run/data/f.jsonl").read_text().splitlines()) == 4


def test_a_filter_that_has_ended_takes_no_more_steps(values):
    make(values({**FILTER, "steps": 2}), PROMPTS).train()
    with pytest.raises(CheckpointError, match=r"stages.f.steps: the filter has ended after 2 steps"):
        make(values({**FILTER, "steps": 3}), PROMPTS).train(resume=True)


# ---------------------------------------------------------------- stages of one's own


class TwiceStage(Stage):
    pass


class Twice(TrainingStage[TwiceStage]):
    """Two gradients and two learners a step, with points between, and no count of what is done."""

    Options = TwiceStage
    shared = False

    def make_roles(self):
        own = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        other = self.policy.parameters if self.shared else {"own": own}
        return [*super().make_roles(), self.role("other", RoleConfig(optim=self.options.optim), other)]

    def step(self):
        first, second = self.learners.values()
        for _ in range(2):
            self.run.adapter.table.square().sum().backward()
            self.run.point("micro")
        norm = first.step()
        self.run.point("update")
        next(iter(second.parameters.values())).sum().backward()
        return {"loss": 0.0, "grad_norm": norm, "other": second.step()}


class Shared(Twice):
    shared = True


class Mine(Grpo):
    """A built-in kind that was subclassed, with its section."""


class Options:
    Options = TwiceStage


def test_a_stage_that_counts_nothing_inside_its_steps_is_cut_between_them(values):
    stage = {"kind": f"{__file__}:Twice", "name": "own", "steps": 3, "optim": {"lr": 0.1}}
    straight = make(values(stage))
    straight.train()
    cut, stops = values(stage, name="cut"), 0
    while stops < 20:
        try:
            (loop := make(cut, should_stop=lambda point: True)).train(resume=stops > 0)
            break
        except Stopped:
            stops += 1
    assert stops == 3
    assert torch.equal(loop.adapter.table, straight.adapter.table)


def test_learners_that_share_weights_of_which_one_is_averaged_are_refused(values):
    stage = {"kind": f"{__file__}:Shared", "name": "own", "steps": 2}
    make(values(stage, name="plain")).train()
    with pytest.raises(ConfigError, match="learners policy and other both move table, of which an average is kept"):
        make(values({**stage, "optim": {"ema": 0.9}})).train()


def test_a_subclass_of_a_built_in_kind_has_its_section(values):
    loop = make(values(grpo(kind=f"{__file__}:Mine", name="mine")), PROMPTS)
    loop.train()
    assert type(loop.stage).__name__ == "Mine" and loop.cursor.total_steps == 3
    assert load(loop.run.config.model_dump(mode="json")) == loop.run.config


def test_a_class_that_only_has_options_is_no_stage(values):
    with pytest.raises(ConfigError, match="Options in that file is no stage"):
        make(values({"kind": f"{__file__}:Options", "name": "o", "steps": 1}))


@pytest.mark.parametrize(("names", "told"), [(("table", "tied"), "one parameter"), (("a/table",), "has no `/`")])
def test_parameters_that_no_checkpoint_could_tell_apart_are_refused(values, names, told):
    class Odd(Answers):
        def trainable_parameters(self):
            return dict.fromkeys(names, self.table)

    with pytest.raises(ConfigError, match=told):
        make(values(grpo()), PROMPTS, adapter=Odd(AnswersConfig())).train()


# ---------------------------------------------------------------- rewards and prompts


@pytest.mark.parametrize(
    "alias", ["kl", "tree", "mean", "std", "invalid", "turns", "visual_tokens", "env", "a/invalid"]
)
def test_names_of_scores_and_metrics_that_training_makes_are_no_aliases(values, alias):
    with pytest.raises(ConfigError, match=r"makes by itself; take another|parts a reward's name from its tasks"):
        make({**values(grpo()), "rewards": [{"name": "jpeg.compressible", "alias": alias}]})


def test_a_rate_of_nine_in_ten_reaches_nine_tenths(values):
    """0.9 of 32 bits is below 0.9."""
    loop = make(values(grpo(samples=10, steps=20, curriculum={"retire_at": 0.9}), reward="nine"), PROMPTS)
    loop.train()
    assert loop.cursor.total_steps == 3  # all six, two a step


def test_a_refill_is_judged_with_the_step_that_it_fills(values):
    """One prompt has no reward, and is drawn anew where another was silent: alone it would look like a failure."""
    prompts = [Prompt(f"q{i}", "x" * length) for i, length in enumerate((2, 4, 6, 8, 10, 1))]
    for name, refill in (("plain", 1), ("refilled", 4)):
        loop = make(values(grpo(steps=4, groups=4, refill=refill), reward="odd", name=name), prompts)
        loop.train()
        assert loop.cursor.total_steps == 4
    with pytest.raises(RewardFailure, match="no sample of step 1 has a reward"):
        make(values(grpo(refill=2), reward="odd", name="none"), PROMPTS[::2]).train()


def test_a_resume_with_other_golds_is_refused(values):
    with pytest.raises(Stopped):
        make(values(grpo()), PROMPTS, should_stop=stopped_at("step", 1)).train()
    other = [Prompt(p.id, p.text, {**p.record, "answer": "b"}) for p in PROMPTS]
    with pytest.raises(CheckpointError, match=r"data.prompts"):
        make(values(grpo()), other).train(resume=True)


def test_a_loss_that_is_no_number_names_records_that_brought_no_id(values, tmp_path):
    class Sick(Answers):
        def supervised_loss(self, records, objective, seed):
            return torch.tensor(float("nan"))

    (tmp_path / "given.jsonl").write_text('{"prompt": "x", "completion": "a"}\n' * 3)
    given = {"records": str(tmp_path / "given.jsonl")}
    config = {**values({"kind": "sft", "steps": 1, "batch": 3}, data=given), "rewards": []}
    loop = make(config, records=Records(DataConfig(**given)), adapter=Sick(AnswersConfig()))
    with pytest.raises(NonFiniteError, match=r"supervised loss is nan at step 1, records [123], [123], [123];"):
        loop.train()


# ---------------------------------------------------------------- the evaluation at the end


@pytest.mark.parametrize("more", [0, 2])
def test_the_scores_after_are_those_of_the_last_weights(values, tmp_path, more):
    """Stopped at step 2 and resumed with as many steps; finished and resumed with more."""
    options = {"data": {"prompts": "unused.txt", "eval_prompts": "unused.txt"}, "eval": {"samples": 8}}
    if more:
        make(values(grpo(steps=2), **options), PROMPTS, eval_prompts=PROMPTS).train()
    else:
        with pytest.raises(Stopped):
            make(values(grpo(), **options), PROMPTS, eval_prompts=PROMPTS, should_stop=stopped_at("step", 2)).train()
    loop = make(values(grpo(steps=2 + more), **options), PROMPTS, eval_prompts=PROMPTS)
    summary = loop.train(resume=True)
    now = [
        s.artifact.count("a") / 5
        for g in loop.adapter.evaluate(PROMPTS, 8, loop.run.config.eval.seed)
        for s in g.samples
    ]
    assert summary["after"]["eval/r.a"] == pytest.approx(sum(now) / len(now))
    assert json.loads(Path(tmp_path, "run", "summary.json").read_text())["eval"]["after"] == summary["after"]
