"""Every option of a distill stage, of its adversary and of its rewards changes the policy that a run comes to."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from test_flash_stage import loop_of

from mmrl.config import AdversaryConfig, DistillStage, JointConfig

SPEED_ONLY = {"micro_batch", "rollout_chunk"}
ELSEWHERE = {
    "sampling": "tests/training/test_own_sampling.py, on a model that has ways to sample",
    "surrogate": "tests/training/test_surrogate_stage.py",
    "times_above": "tests/training/test_surrogate_stage.py",
    "teacher_steps": "what is shown of the teacher, in test_report_of_roles.py",
    "kind": "another stage altogether",
    "name": "the seed of its noise, as in every stage",
    "teacher": "tests/modalities/image/test_few_steps.py, on a model that is read from a folder",
    "components": "tests/training/test_references.py",
    "data_from": "tests/training/test_filtering.py",
    "curriculum": "tests/training/test_options_change_runs.py, by the same code",
    "refill": "tests/training/test_options_change_runs.py, by the same code",
    "hints": "tests/training/test_options_change_runs.py, by the same code",
    "max_invalid": "tests/training/test_options_change_runs.py, by the same code",
}
WEIGHTED = {"schedule": "weighted"}
STEP_DPO = {"objective": "step_dpo"}
STAGE = {"steps": 2, "groups": 2, "samples": 3}
BASE: dict[str, Any] = {"blocks": 2, "width": 4, "real": "teacher", "teacher_steps": 3, "weight": 0.5}
# option -> (what the stage has besides, another value).
DISTILL = {
    "steps": ({}, 1),
    "optim": ({}, {"lr": 0.01}),
    "groups": ({}, 3),
    "samples": ({}, 2),
    "updates": ({}, 2),
    "epochs": ({}, 2),
    "shuffle_rewards": ({}, True),
    "every": ({}, 2),
    "pulls": ({}, 2),
    "early": ({}, 0.3),
    "guidance": ({}, 1.5),
    "times": ({}, {"high": 0.5}),
    "fake": ({}, {"optim": {"lr": 0.02}, "follow": {"decay": 0.5}}),
    "adversary": ({}, None),
    "joint": ({}, None),
}
ADVERSARY = {
    "weight": ({}, 0.1),
    "form": ({}, "hinge"),
    "late": ({}, 0.9),
    "real": ({}, "records"),
    "teacher_steps": ({}, 5),
    "features": ({}, "fake"),
    "blocks": ({}, 1),
    "width": ({}, 3),
    "times": ({}, {"high": 0.3}),
    "heads": ({}, {"optim": {"lr": 0.3}, "updates": 2}),
}
JOINT = {
    "objective": ({}, "step_dpo"),
    "schedule": ({}, "weighted"),
    "weight": (WEIGHTED, 0.2),
    "after": ({}, 1),
    "algorithm": ({}, {"preset": "grpo", "advantage": "group_mean"}),
    "beta": (STEP_DPO, 3.0),
    "anchor": (STEP_DPO, {"follow": {"decay": 0.5}}),
}
CASES = [
    *(("stage", name, *of) for name, of in DISTILL.items()),
    *(("adversary", name, *of) for name, of in ADVERSARY.items()),
    *(("joint", name, *of) for name, of in JOINT.items()),
]


def made(place: str, having: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    joint = {"algorithm": {"preset": "grpo"}}
    sections = {"adversary": dict(BASE), "joint": joint, "stage": dict(STAGE)}
    sections[place] |= having | changed
    if sections["adversary"]["real"] == "records":
        sections["adversary"].pop("teacher_steps")
    return {"adversary": sections["adversary"], "joint": joint, **sections["stage"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    @cache
    def weights(stage: str) -> torch.Tensor:
        folder = tmp_path_factory.mktemp("run")
        loop = loop_of(folder, **json.loads(stage))
        loop.train()
        return loop.adapter.table

    return lambda stage: weights(json.dumps(stage))


@pytest.mark.parametrize(("place", "option", "having", "value"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_an_option_changes_the_policy(trained, place, option, having, value):
    plain, other = (made(place, having, changed) for changed in ({}, {option: value}))
    assert not torch.equal(trained(plain), trained(other))


def test_no_option_is_left_out():
    known = {
        DistillStage: {*DISTILL, *SPEED_ONLY, *ELSEWHERE},
        AdversaryConfig: set(ADVERSARY),
        JointConfig: set(JOINT),
    }
    assert {section: set(section.model_fields) for section in known} == known
