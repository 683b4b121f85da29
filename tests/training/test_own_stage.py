"""A kind of stage of one's own, from a file: an objective that two optimizers share, resumed bit for bit."""

from __future__ import annotations

import pytest
import torch
from answers import make, ranks
from torch import nn

from mmrl.config import ConfigError, RoleConfig, Stage
from mmrl.training.stages.base import Stage as TrainingStage
from mmrl.training.stopping import Stopped
from mmrl.types import Prompt


class BaselineStage(Stage):
    every: int = 3


class Baseline(TrainingStage[BaselineStage]):
    """REINFORCE with a learned baseline: the baseline takes a step each time, the policy every third time."""

    Options = BaselineStage

    def make_roles(self):
        self.baseline = nn.Parameter(torch.zeros((), dtype=torch.float64))
        options = RoleConfig(optim=self.options.optim)
        return [*super().make_roles(), self.role("baseline", options, {"value": self.baseline})]

    def step(self):
        prompt, adapter, (a, b) = Prompt("p", "x"), self.run.adapter, self.learners.values()
        samples = adapter.given(prompt, ["ab", "ba", "b"])
        rewards = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
        logp = torch.stack([adapter.logprobs([s], torch.arange(len(s.trajectory.logp))).logp.sum() for s in samples])
        gap = rewards - self.baseline
        (gap.square().mean() - (gap.detach() * logp).mean()).backward()
        b.step()
        norm = a.step() if self.cursor.step % self.options.every == 0 else a.forget_gradient()
        return {"loss": float(gap.detach().square().mean()), "grad_norm": norm, "lr": b.rate}


def values(tmp_path, name="run", **options):
    optim = {"lr": 0.1, "schedule": "cosine", "ema": 0.9}
    stage = {"kind": f"{__file__}:Baseline", "name": "own", "steps": 9, "optim": optim, **options}
    return {"name": name, "out": str(tmp_path), "stages": [stage], "checkpoint": {"every": 1}}


def test_two_optimizers_of_a_stage_from_a_file_are_trained_and_resumed(tmp_path):
    straight = make(values(tmp_path, "straight"))
    straight.train()
    assert [learner.steps for learner in straight.stage.learners.values()] == [3, 9]
    assert 0.2 < float(straight.stage.baseline.detach()) < 0.9  # towards the mean reward, 0.5
    cut, stops = values(tmp_path, "cut"), 0
    while stops < 20:
        try:
            (loop := make(cut, should_stop=lambda point: True)).train(resume=stops > 0)
            break
        except Stopped:
            stops += 1
    assert stops == 9
    assert torch.equal(loop.adapter.table, straight.adapter.table)
    assert torch.equal(loop.stage.baseline, straight.stage.baseline)
    for loop in ranks(lambda processes: (r := make(values(tmp_path, "two"), processes=processes), r.train())[0]):
        assert loop.stage.learners["baseline"].steps == 9


def test_an_own_kind_is_checked_like_the_others(tmp_path):
    with pytest.raises(ConfigError, match="every2: unknown key; did you mean 'every'"):
        make(values(tmp_path, every2=1))
    with pytest.raises(ConfigError, match="no stage; write a subclass"):
        make(values(tmp_path, kind=f"{__file__}:values"))
