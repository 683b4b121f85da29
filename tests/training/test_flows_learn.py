"""Every objective for flow models moves a flow whose best place is known to that place, by a whole stage."""

from __future__ import annotations

import pytest
import torch
from answers import AnswersConfig, make
from planar import Planar

from mmrl.types import Prompt

TARGET = torch.tensor([1.5, -1.0], dtype=torch.float64)
REWARD = """
def near(samples):
    places = [[float(v) for v in s.artifact.split()] for s in samples]
    return [-(((x - 1.5) ** 2 + (y + 1.0) ** 2) ** 0.5) for x, y in places]
"""
FORWARD = {"kind": "forward_process", "draws": 3}
OBJECTIVES = {
    "nft": FORWARD,
    "nft, old follows slowly": {**FORWARD, "old": {"decay": 0.5}},
    "nft, beta a tenth": {**FORWARD, "beta": 0.1},
    "awm": {**FORWARD, "objective": "awm"},
    "awm, ghuber": {**FORWARD, "objective": "awm", "weighting": "ghuber"},
    "awm, as Flow-Factory's example": {
        **FORWARD,
        "objective": "awm",
        "weighting": "ghuber",
        "ema_coef": 1.0,
        "reference_coef": 1e-4,
        "algorithm": {"preset": "flow_grpo", "clamp": 1.0},
    },
    "dgpo": {**FORWARD, "objective": "dgpo", "beta": 10.0},
    "dgpo, clipped": {**FORWARD, "objective": "dgpo", "beta": 10.0, "updates": 2, "old": {"decay": 0.3}},
    "flow_grpo": {"kind": "grpo", "epochs": 2, "algorithm": {"preset": "flow_grpo"}},
    "flow_dppo": {
        "kind": "grpo",
        "epochs": 2,
        "algorithm": {"preset": "flow_dppo", "gate": {"name": "dppo", "limit": 1e-2}},
    },
}


def trained(folder, stage):
    """(the flow's centre, the mean reward of each step) of a short run."""
    (folder / "places.py").write_text(REWARD, encoding="utf-8")
    values = {
        "out": str(folder),
        "data": {"prompts": "unused.txt"},
        "rewards": [{"name": f"{folder / 'places.py'}:near"}],
        "stages": [{"steps": 16, "groups": 2, "samples": 16, "micro_batch": 10**6, "optim": {"lr": 0.12}, **stage}],
        "report": {"samples_every": 0},
        "checkpoint": {"every": 0},
    }
    prompts = [Prompt(name, name) for name in "ab"]
    loop, rows = make(values, prompts, adapter=Planar(AnswersConfig(), ode=stage["kind"] != "grpo")), []
    loop._log = rows.append
    loop.train()
    return loop.adapter.centre.detach(), torch.tensor([row["reward/mean"] for row in rows])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_reward_rises_to_where_it_is_known_to_be_best(tmp_path, objective):
    """The centre goes 0.7 or more of the 1.8 to the target; the reward, minus the distance, rises with it."""
    centre, reward = trained(tmp_path, OBJECTIVES[objective])
    assert float((centre - TARGET).norm()) < 1.1
    assert reward[-3:].mean() > reward[:2].mean() + 0.5
