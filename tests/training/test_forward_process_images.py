"""The stage on the forward process on pictures: a whole run, stopped inside of an update and resumed."""

from __future__ import annotations

import pytest
import torch

from mmrl.config import load
from mmrl.training.assemble import assemble
from mmrl.training.loop import Loop
from mmrl.training.stopping import Stopped


@pytest.mark.parametrize(("objective", "train"), [("nft", "lora"), ("awm", "full"), ("dgpo", "full")])
def test_a_run_that_is_stopped_and_resumed_is_the_run_that_was_not(tiny, objective, train):
    """The copy that samples has the trained parameters alone: those of a LoRA are few."""

    def run(name, should_stop=None, resume=False):
        stage = {"kind": "forward_process", "objective": objective, "steps": 2, "groups": 2, "samples": 4, "updates": 2}
        stage |= {"draws": 2, "micro_batch": 3, "reference_coef": 0.1, "optim": {"lr": 0.01}}
        model = {"train": train, "sampling": {"steps": 2, "plan": {"name": "untrained"}}}
        model |= {"lora": {"rank": 2}} if train == "lora" else {}
        config = load(tiny(name=name, stages=[stage], model=model))
        loop = Loop(assemble(config, should_stop=should_stop), quiet=True)
        loop.train(resume=resume)
        return loop

    straight = run("straight")
    assert set(straight.stage.roles["old"].weights) == set(straight.adapter.trainable_parameters())
    assert all("lora" in name for name in straight.stage.roles["old"].weights) == (train == "lora")
    seen = []
    with pytest.raises(Stopped):
        run("cut", lambda point: point == "micro" and (seen.append(point) or len(seen) == 8))
    again = run("cut", resume=True)
    weights, old = straight.adapter.trainable_parameters(), straight.stage.roles["old"].weights
    for name, parameter in again.adapter.trainable_parameters().items():
        assert torch.equal(parameter, weights[name]), name
        assert torch.equal(again.stage.roles["old"].weights[name], old[name]), name
    assert any(not torch.equal(old[name], weights[name]) for name in old) == (objective == "nft")
