"""A field of the algorithm that changes nothing is refused where it is given; one that changes something is taken."""

from __future__ import annotations

import dataclasses

import torch
from core_steps import N, gradient, numbers
from every import every

from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.library import registry
from mmrl.core.resolving import resolve

# A value of each field that is far from its default.
POLICY = [
    {"clip_low": 0.05},
    {"clip_high": 0.05},
    {"gate": "none"},
    {"ratio": "sequence"},
    {"std_eps": 0.7},
    {"std_floor": 0.9},
    {"ddof": 0},
    {"clamp": 0.1},
    {"action_weights": ["top_entropy"]},
]


def _refused(preset, overrides):
    try:
        resolve(preset, overrides)
    except ValueError as error:
        assert "has no effect" in str(error)
        return True
    return False


def _advantage(name, **fields):
    """Advantages of rewards that are all different."""
    scores = torch.linspace(0, 1, N, dtype=torch.float64)[torch.randperm(N, generator=torch.Generator().manual_seed(3))]
    made = Algorithm(advantage=name, **fields)
    return estimate(scores[:, None], torch.ones(N, 1, dtype=torch.bool), torch.ones(1), numbers().batch, made)[0]


@every("changed", [{"std_eps": 0.7}, {"std_floor": 0.55}, {"ddof": 0}], ids=str)
@every("name", sorted(registry("advantage")))
def test_what_an_estimator_reads(name, changed):
    idle = torch.equal(_advantage(name), _advantage(name, **changed))
    assert _refused("grpo", {"advantage": name, **changed}) == idle


@every("name", sorted(registry("advantage")))
def test_ddof_is_read_beside_a_floor_of_ones_own(name):
    """A floor between the two standard deviations of some group tells them apart."""
    floors = torch.linspace(0.02, 0.4, 39).tolist()
    idle = all(torch.equal(_advantage(name, std_floor=f), _advantage(name, std_floor=f, ddof=0)) for f in floors)
    assert _refused("grpo", {"advantage": name, "std_floor": 0.1, "ddof": 0}) == idle


@every("changed", POLICY, ids=str)
def test_advantages_of_zero_take_the_policy_term_out(changed):
    plain = resolve("trpa", {"kl_coef": 0.1}).with_defaults(0.2, 0.2)
    assert torch.equal(gradient(plain, numbers()), gradient(dataclasses.replace(plain, **changed), numbers()))
    assert _refused("trpa", {"kl_coef": 0.1, **changed})
    if not {"ratio", "action_weights"} & set(changed):
        assert not _refused("grpo", changed)
