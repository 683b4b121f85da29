"""A noise correction is refused exactly where it changes no advantage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from core_steps import N, numbers
from every import every
from torch import Tensor

from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.resolving import checked

BACKWARD = {"name": "noise_backward", "rho0": 0.1, "rho1": 0.2}
FORWARD = {"name": "noise_forward", "rho1": 0.2}
LATER: list[list[Mapping[str, Any]]] = [
    [],
    [{"name": "soft_overlong", "limit": 6, "buffer": 3}],
    [{"name": "selective"}],
    [{"name": "gated_sum", "outcome": "process", "delta": 0.5}],
    [{"name": "gated_sum", "ungated": True}],
    [{"name": "gated_sum", "delta": 0.5}],
    [{"name": "gated", "condition": "a", "threshold": 0.5}],
    [{"name": "plan_value", "outcome": "process"}],
    [{"name": "plan_value", "outcome": "process"}, {"name": "soft_overlong", "limit": 6, "buffer": 3}],
    [{"name": "round_discount", "gamma": 0.5}],
    [{"name": "majority_vote"}],
    [{"name": "co_reward"}],
    [{"name": "staged", "boundaries": [], "weights": [{"a": 1.0}]}],
]
ADVANTAGES = ["group_std", "group_mean", "none", "macro", {"name": "macro", "reward_feature": "entropy"}]


def _advantage(algorithm: Algorithm) -> Tensor:
    given = numbers()
    passed = (given.reward > 0).double()[:, None]
    return estimate(passed, torch.ones(N, 1, dtype=torch.bool), torch.ones(1), given.batch, algorithm)[0]


@every("noise", [BACKWARD, FORWARD], ids=["backward", "forward"])
@every("later", LATER)
@every("advantage", ADVANTAGES)
def test_a_correction_is_refused_where_it_changes_no_advantage(noise, later, advantage):
    plain, corrected = (Algorithm(advantage=advantage, std_eps=0.0, shape=shape) for shape in (later, [noise, *later]))
    if torch.allclose(_advantage(plain), _advantage(corrected), atol=1e-9):
        with pytest.raises(ValueError, match=f"{noise['name']}.* has no effect"):
            checked(corrected)
    else:
        checked(corrected)
