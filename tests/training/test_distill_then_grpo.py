"""A few-step student is distilled, then learns from rewards: two stages of one run, on pictures."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from mmrl.config import load
from mmrl.training.assemble import assemble
from mmrl.training.loop import Loop
from mmrl.training.stopping import Stopped

LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}


def _is_the(number: int, points: count, point: str) -> bool:
    """Whether this is the point of that number within updates."""
    return point in ("micro", "update") and next(points) + 1 == number


@pytest.mark.parametrize("model", [{}, {**LORA, "gradient_checkpointing": True}], ids=["full", "lora"])
def test_a_student_is_distilled_and_then_rewarded(tiny, model, monkeypatch):
    """The second stage's reference is the average that the first one hands on; a cut in either leaves the weights."""
    distill = {"kind": "distill", "steps": 2, "groups": 2, "micro_batch": 1, "optim": {"lr": 0.01, "ema": 0.5}}
    distill |= {"fake": {"optim": {"lr": 0.01}, "follow": {"decay": 0.9}}}
    reward = {"kind": "grpo", "steps": 2, "groups": 2, "samples": 4, "micro_batch": 4, "optim": {"lr": 0.01}}
    reward |= {"algorithm": {"preset": "flow_grpo", "kl_coef": 0.1}}
    given = {"kernel": "renoise", "guidance": 2.0}
    found: dict[str, list] = {}
    run_stage = Loop._run_stage

    def run(name, should_stop=None, resume=False):
        stages = [distill, reward]
        config = load(tiny(name=name, stages=stages, model={**model, "sampling": given}))
        loop = Loop(assemble(config, should_stop=should_stop), quiet=True)
        ends: list[dict] = []
        found[name] = ends

        def noting(self, number):
            run_stage(self, number)
            ends.append({k: p.detach().clone() for k, p in self.adapter.trainable_parameters().items()})

        monkeypatch.setattr(Loop, "_run_stage", noting)
        loop.train(resume=resume)
        return loop

    straight = run("straight")
    reference = straight.adapter.reference_parameters()
    assert all(torch.equal(reference[name], weight) for name, weight in found["straight"][0].items())
    rows = [json.loads(r) for r in (Path(straight.run.folder) / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["distill"] * 2 + ["grpo"] * 2
    assert rows[2]["kl"] < 1e-10 < rows[3]["kl"] and rows[2]["ratio/max_dev"] < 1e-5
    for cut in (3, 12):
        points = count()
        with pytest.raises(Stopped):
            run(f"cut{cut}", partial(_is_the, cut, points))
        again = run(f"cut{cut}", resume=True).adapter.trainable_parameters()
        for name, parameter in straight.adapter.trainable_parameters().items():
            assert torch.equal(parameter, again[name]), (cut, name)
