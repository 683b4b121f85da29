"""Log-taming against tables by hand: which rewards are tamed, by what, centred afterwards, on one rank and on two."""

from __future__ import annotations

import math

import pytest
import torch
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.advantage import estimate
from mmrl.core.batch import full
from mmrl.core.registry import Hook
from mmrl.core.resolving import resolve
from mmrl.core.tame import TAMERS

NAN = float("nan")
GROUP = torch.tensor([0, 0, 1, 1])
# Reward a: mean 0.5, std 0.1, ratio 0.2. Reward b: mean 4, std 4, ratio 1. Reward c: mean 2, std 0.5, ratio 0.25.
A, B, C = [0.4, 0.6, 0.4, 0.6], [0.0, 8.0, 8.0, 0.0], [1.5, 2.5, 1.5, 2.5]
SCORES = torch.tensor([A, B, C], dtype=torch.float64).T
LOG9 = math.log(9)


def tamed(scores=SCORES, counted=None, threshold="mean", **batch):
    counted = torch.ones_like(scores, dtype=torch.bool) if counted is None else counted
    use = TAMERS.bind(Hook("log", {"threshold": threshold}))
    return use(scores, counted, full(batch.pop("group", GROUP[: len(scores)]), 2, **batch))


def columns(threshold):
    found = tamed(threshold=threshold)
    return [not torch.equal(found[:, f], SCORES[:, f]) for f in range(3)]


@every(
    ("threshold", "which"),
    [
        ("mean", [False, True, False]),  # (0.2 + 1 + 0.25) / 3 = 0.483
        ("median", [False, True, False]),  # 0.25, which c is not above
        (0.22, [False, True, True]),
        (0.0, [True, True, True]),
        (1.0, [False, False, False]),  # a ratio of 4 / (4 + 1e-6) is not above 1
        (0.9999, [False, True, False]),
    ],
)
def test_rewards_that_vary_more_than_the_threshold_are_tamed(threshold, which):
    assert columns(threshold) == which


def test_the_median_of_an_even_number_is_the_middle_of_two():
    # Ratios 0.2, 0.25, 1, 1: the median is 0.625.
    four = torch.cat([SCORES, 3 * SCORES[:, 1:2]], 1)
    found = tamed(four, threshold="median")
    assert torch.equal(found[:, :1], four[:, :1]) and torch.equal(found[:, 2], four[:, 2])
    assert torch.allclose(found[:, 1], torch.tensor([0.0, LOG9, LOG9, 0.0], dtype=torch.float64))
    assert torch.allclose(found[:, 3], torch.log1p(four[:, 3]))


def advantages(algorithm, scores=SCORES, weights=(1.0, 1.0, 1.0), group=GROUP, **rest):
    return estimate(scores, scores.isfinite(), torch.tensor(weights), full(group, 2), algorithm, **rest)


def test_the_tamed_sum_is_centred_in_its_group_and_divided_by_the_spread_of_all():
    """b becomes 0, log 9, log 9, 0. Sums: 1.9, 3.1 + L | 1.9 + L, 3.1. L = log 9 = 2.197."""
    sums = [1.9, 3.1 + LOG9, 1.9 + LOG9, 3.1]
    mean = sum(sums) / 4
    std = math.sqrt(sum((r - mean) ** 2 for r in sums) / 4)
    high, low = (1.2 + LOG9) / 2, (LOG9 - 1.2) / 2
    found, reward, _ = advantages(resolve("paco_grpo", {"std_eps": 0.0}))
    assert reward.tolist() == pytest.approx(sums)
    assert found.tolist() == pytest.approx([-high / std, high / std, low / std, -low / std])


def test_the_released_form_is_the_sum_itself_and_pushes_every_sample_up():
    found, _, _ = advantages(resolve("paco_grpo_uncentred", {}), weights=(0.2, 1.0, 1.0))
    assert found.tolist() == pytest.approx([1.58, 2.62 + LOG9, 1.58 + LOG9, 2.62])
    assert (found > 0).all()


def test_a_dominant_reward_keeps_less_of_the_advantage_when_it_is_tamed():
    """In group 0 reward b alone says that the second is better; a and c of group 1 say the opposite of b."""
    plain, calm = (advantages(resolve(name, {}))[0] for name in ("flow_grpo", "paco_grpo"))
    # Of 8 - 1.2 against log 9 - 1.2: the share of what a and c say has grown.
    assert plain[2] > 0 and calm[2] > 0
    assert calm[2] / calm[1] < plain[2] / plain[1]


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 1)), min_size=2, max_size=12), st.integers(1, 3))
def test_advantages_of_every_group_sum_to_zero(rewards, groups):
    scores = torch.tensor(rewards, dtype=torch.float64)
    group = torch.arange(len(scores)) % groups
    found, _, _ = estimate(
        scores, scores.isfinite(), torch.ones(2), full(group, groups), resolve("paco_grpo", {"clamp": None})
    )
    for number in range(groups):
        assert float(found[group == number].sum()) == pytest.approx(0, abs=1e-9 * max(1, float(scores.max())))


def test_a_group_that_lost_members_is_tamed_and_centred_by_those_that_are_left():
    """A sample without one of its rewards has no reward, and is in no statistic; a group of one learns nothing."""
    scores = torch.cat([SCORES, torch.tensor([[0.5, NAN, 1e9], [NAN, 3.0, 2.0], [0.5, 2.0, 2.0]])])
    group = torch.cat([GROUP, torch.tensor([0, 1, 2])])
    lost = estimate(
        scores, scores.isfinite(), torch.ones(3), full(group, 3), resolve("paco_grpo", {"advantage": "group_mean"})
    )
    rest = estimate(
        scores[[0, 1, 2, 3, 6]],
        torch.ones(5, 3, dtype=torch.bool),
        torch.ones(3),
        full(group[[0, 1, 2, 3, 6]], 3),
        resolve("paco_grpo", {"advantage": "group_mean"}),
    )
    assert torch.allclose(lost[0][[0, 1, 2, 3, 6]], rest[0])
    assert lost[0][[4, 5, 6]].tolist() == [0, 0, 0]
    assert lost[2].tolist() == [True] * 4 + [False] * 2 + [True]


def test_a_monitor_is_not_tamed_and_does_not_move_the_threshold():
    """A weight of 0: with b as monitor the mean of the ratios is 0.225, which c alone is above."""
    _, reward, _ = advantages(resolve("paco_grpo", {}), weights=(1.0, 0.0, 1.0))
    assert reward.tolist() == pytest.approx([a + math.log1p(c) for a, c in zip(A, C)])


def test_a_reward_that_does_not_apply_counts_for_those_that_it_applies_to():
    counted = torch.ones(4, 3, dtype=torch.bool)
    counted[2:, 1] = False  # b is 0 and 8: the ratio is 1 as before
    scores = torch.where(counted, SCORES, NAN)
    found = tamed(scores, counted)
    assert found[:2, 1].tolist() == pytest.approx([0.0, LOG9])
    assert found[2:, 1].isnan().all()


def test_two_ranks_tame_as_one_does(ranks):
    def work(rank, reduce):
        rows = slice(2 * rank, 2 * rank + 2)
        return tamed(SCORES[rows], group=GROUP[rows], reduce=reduce)

    assert torch.allclose(torch.cat(ranks(work)), tamed())


def test_what_cannot_be_tamed_is_told_on_every_rank(ranks):
    below = SCORES.clone()
    below[0, 1] = -0.5

    def work(rank, reduce):
        rows = slice(2 * rank, 2 * rank + 2)
        with pytest.raises(ValueError, match="below 0; scale or shift"):
            tamed(below[rows], group=GROUP[rows], reduce=reduce)

    ranks(work)
    assert torch.equal(tamed(torch.cat([below[:, :1] - 9, SCORES[:, 1:]], 1))[:, 0], below[:, 0] - 9)  # is not tamed


def test_one_reward_varies_no_more_than_the_mean_of_all():
    for name in ("mean", "median"):
        assert torch.equal(tamed(SCORES[:, 1:2], threshold=name), SCORES[:, 1:2])
    assert tamed(SCORES[:, 1:2], threshold=0.5)[1] == pytest.approx(LOG9)


@every("wrong", ["mode", -0.1, True, None, [0.5]])
def test_other_thresholds_are_refused(wrong):
    with pytest.raises(ValueError, match="threshold"):
        resolve("flow_grpo", {"tame": {"name": "log", "threshold": wrong}})
