"""Options that contradict each other are refused with the configuration, before anything is sampled."""

from __future__ import annotations

import pytest
import torch

from mmrl.core.advantage import estimate
from mmrl.core.aggregate import weights
from mmrl.core.algorithm import CHOICES, Algorithm
from mmrl.core.batch import full
from mmrl.core.reduce import local
from mmrl.core.resolving import resolve

STAGES = [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}]
HOOKS = [
    ("gate", {"name": "bapo", "low_start": 0.95}),
    ("gate", {"name": "bapo", "high_end": 1.1}),
    ("correction", {"name": "icepop", "low": 6.0}),
    ("correction", {"name": "geometric", "low": 1.5}),
    ("correction", {"name": "truncate", "floor": 2.0, "cap": 1.0}),
    ("terms", [{"name": "entropy_band", "low": 2.0, "high": 1.0}]),
    ("terms", [{"name": "entropy_band", "low": 2.0}]),
    ("terms", [{"name": "entropy_band", "high": 2.0}]),
    ("shape", [{"name": "soft_overlong", "buffer": 20, "limit": 10}]),
    ("shape", [{"name": "staged", "boundaries": [5, 3], "weights": STAGES}]),
    ("shape", [{"name": "staged", "boundaries": [5], "weights": STAGES}]),
    ("filters", [{"name": "accuracy_band", "low": 0.9, "high": 0.1}]),
]


@pytest.mark.parametrize(("field", "value"), HOOKS)
def test_contradictory_options_are_refused_in_one_line_that_names_the_hook(field, value):
    name = (value[0] if isinstance(value, list) else value)["name"]
    with pytest.raises(ValueError, match=f"'{name}': ") as caught:
        resolve("grpo", {field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gate", ["two_sided", "dual_clip"])
def test_a_bound_inside_the_clip_range_of_the_adapter_is_refused(gate):
    """The range is not known to the configuration, where it is left to the adapter."""
    algorithm = resolve("grpo", {"gate": {"name": gate, "clip_bound": 1.1}})
    assert algorithm.with_defaults(0.05, 0.05).clip_high == 0.05
    with pytest.raises(ValueError, match=r"clip_bound=1.1: .* 1 \+ clip_high = 1.2"):
        algorithm.with_defaults(0.2, 0.2)


@pytest.mark.parametrize("aggregate", CHOICES["aggregate"])
def test_a_ratio_of_whole_sequences_goes_with_means_in_which_they_count_alike(aggregate):
    """Each action carries the gradient of all of its sequence, which weighs what its actions weigh together."""
    length = {"constant_length": 8} if aggregate == "constant" else {}
    mask = torch.arange(8)[None, :] < torch.tensor([[2], [8]])
    short, long = weights(aggregate, mask, torch.tensor([0, 0]), 1, local, **length).sum(1)
    given = {"ratio": "product", "aggregate": aggregate, **length}
    if short == long:
        assert resolve("grpo", given).aggregate == aggregate
    else:
        with pytest.raises(ValueError, match="count a sequence as often as it has actions; set aggregate="):
            resolve("grpo", given)


@pytest.mark.parametrize("combine", CHOICES["combine"])
def test_a_kl_comes_off_a_summed_reward_or_is_refused(combine):
    """Normalised by itself it would keep no size: kl_coef 0.1 and 10 would be the same."""
    scores, batch = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 1.0]]).double(), full(torch.zeros(3, dtype=torch.int64))
    given = {"combine": combine, "kl_coef": 0.1, "kl_estimator": "k1", "kl_place": "reward"}

    def made():
        algorithm = resolve("grpo", given)
        estimate(scores, scores > -1, torch.ones(2), batch, algorithm, penalty=torch.tensor([0.1, 0.0, 0.2]))

    if combine == "reward_sum":
        made()
        return
    with pytest.raises(ValueError, match=f"combine='{combine}' never forms; set kl_place='loss'"):
        made()
    with pytest.raises(ValueError, match=f"which combine='{combine}' never forms"):
        estimate(scores, scores > -1, torch.ones(2), batch, Algorithm(combine=combine), penalty=torch.ones(3))
