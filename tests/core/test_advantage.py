"""Every estimator of one number per sample against a hand table, and the ways of combining rewards.

The table: group 0 has rewards 0, 2, 4 and an invalid one; group 1 has 5, 5; group 2 has only 9; group 3 has
1, 2. Centred: -2, 0, 2 | 0, 0 | 0 | -.5, .5.
"""

import math
import statistics

import pytest
import torch
from every import every
from hypothesis import assume, given
from hypothesis import strategies as st

from mmrl.core.advantage import ESTIMATORS, estimate
from mmrl.core.algorithm import CHOICES, Algorithm
from mmrl.core.batch import Batch, full
from mmrl.core.filter import FILTERS
from mmrl.core.reduce import local
from mmrl.core.registry import Hook
from mmrl.core.resolving import ALONE
from mmrl.core.shape import SHAPERS

NAN = float("nan")
REWARDS = torch.tensor([0.0, 2.0, 4.0, NAN, 5.0, 5.0, 9.0, 1.0, 2.0], dtype=torch.float64)
VALID = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1, 1], dtype=torch.bool)
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3, 3])

RAW = [0, 2, 4, 5, 5, 9, 1, 2]
GLOBAL = statistics.stdev(RAW)
MEAN = statistics.fmean(RAW)
# Centred rewards of the groups with spread: squares add up to 4 + 4 + .25 + .25 = 8.5 over 5 samples.
BATCH = math.sqrt(8.5 / 4)
# The same squares over all 8 valid samples.
WHITEN = math.sqrt(8.5 / 7)
CENTRED = [-2, 0, 2, 0, 0, 0, 0, -0.5, 0.5]

TABLE = {
    "group_std": [-1, 0, 1, 0, 0, 0, 0, -math.sqrt(0.5), math.sqrt(0.5)],
    "group_mean": CENTRED,
    "leave_one_out": [-3, 0, 3, 0, 0, 0, 0, -1, 1],
    "batch_std": [c / BATCH for c in CENTRED],
    "global_std": [c / GLOBAL for c in CENTRED],
    "whiten": [(r - MEAN) / GLOBAL for r in [0, 2, 4, MEAN, 5, 5, 9, 1, 2]],
    "whiten_baseline": [c / WHITEN for c in CENTRED],
    "rank": [-1, 0, 1, 0, 0, 0, 0, -1, 1],
    "outlier_filter": [(r - MEAN) / GLOBAL for r in [0, 2, 4, MEAN, 5, 5, 9, 1, 2]],  # the largest |z| is 1.95
    "none": [0, 2, 4, 0, 5, 5, 9, 1, 2],
    "zero": [0] * 9,
}
IN_GROUP = [name for name in TABLE if name not in ("whiten", "outlier_filter", "none")]


def advantages(name, rewards=REWARDS, valid=VALID, group=GROUP, n_groups=4, reduce=local, **options):
    algorithm = Algorithm(advantage=name, **{"std_eps": 0.0, **options})
    return ESTIMATORS.bind(Hook(name))(rewards, valid, full(group, n_groups, reduce=reduce), algorithm)


def combined(scores, valid, weights, group, n_groups, algorithm, reduce=local, **rest):
    return estimate(scores, valid, weights, full(group, n_groups, reduce=reduce), algorithm, **rest)


def one_column(rewards, algorithm):
    """estimate() of one reward for a single group."""
    scores = torch.as_tensor(rewards, dtype=torch.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    group = torch.zeros(len(scores), dtype=torch.int64)
    ones = torch.ones(scores.shape[1])
    return combined(scores, scores.isfinite(), ones, group, 1, algorithm)


def test_the_table_covers_every_estimator_of_one_number_per_sample():
    inside = {
        "stratified",
        "step_episode",
        "step_rows",
        "macro",
        "whiten_tokens",
        "outlier_filter_tokens",
    }  # in test_advantage_steps.py
    assert set(TABLE) == set(ESTIMATORS) - inside


@every("name", TABLE)
def test_hand_table(name):
    got = advantages(name)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(TABLE[name], abs=1e-12)


@every("name", TABLE)
def test_population_std_and_eps(name):
    """ddof=0 and eps=0.5: divisors worked out again from their definitions."""
    divisors = {
        "group_std": [math.sqrt(8 / 3) + 0.5] * 4 + [1] * 3 + [0.5 + 0.5] * 2,
        "batch_std": [math.sqrt(8.5 / 5) + 0.5] * 9,
        "global_std": [statistics.pstdev(RAW) + 0.5] * 9,
        "whiten": [statistics.pstdev(RAW) + 0.5] * 9,
        "whiten_baseline": [math.sqrt(8.5 / 8) + 0.5] * 9,
        "outlier_filter": [statistics.pstdev(RAW) + 0.5] * 9,
    }
    if name not in divisors:
        assert torch.equal(advantages(name, ddof=0, std_eps=0.5), advantages(name))
        return
    numerators = [TABLE["whiten"][i] * GLOBAL for i in range(9)] if name in ("whiten", "outlier_filter") else CENTRED
    expected = [n / d for n, d in zip(numerators, divisors[name])]
    assert advantages(name, ddof=0, std_eps=0.5).tolist() == pytest.approx(expected, abs=1e-12)


@every("name", TABLE)
@every("garbage", [NAN, math.inf, 1e300, -7.0])
def test_an_invalid_sample_changes_nothing(name, garbage):
    rewards = torch.where(VALID, REWARDS, garbage)
    got = advantages(name, rewards)
    assert got[3] == 0
    without = advantages(name, REWARDS[VALID], VALID[VALID], GROUP[VALID])
    assert torch.equal(got[VALID], without)


@every("name", IN_GROUP)
@every("rewards", [[0.1] * 3, [7.0], [NAN, NAN], [NAN, 7.0], [1.0, 1.0 + 1e-9]])
def test_groups_without_spread_get_exactly_zero(name, rewards):
    """0.1 three times has a mean that is not 0.1 in floating point; a group of one has nothing to compare."""
    rewards = torch.tensor(rewards, dtype=torch.float64)
    got = advantages(name, rewards, rewards.isfinite(), torch.zeros(len(rewards), dtype=torch.int64), 1)
    assert got.tolist() == [0.0] * len(rewards)


@every("name", TABLE)
def test_a_whole_batch_of_equal_rewards_is_finite(name):
    rewards = torch.full((6,), 0.1, dtype=torch.float64)
    valid, group = torch.ones(6, dtype=torch.bool), torch.arange(6) // 3
    got = advantages(name, rewards, valid, group, 2)
    assert got.tolist() == ([0.1] * 6 if name == "none" else [0.0] * 6)


@every("name", TABLE)
def test_permutation_of_samples_permutes_advantages(name):
    order = torch.randperm(9)
    got = advantages(name, REWARDS[order], VALID[order], GROUP[order])
    assert torch.allclose(got, advantages(name)[order], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", TABLE)
def test_two_ranks_equal_one(name, ranks):
    """Groups 0 and 1 on one rank, 2 and 3 on the other."""
    cuts = [slice(0, 6), slice(6, 9)]
    parts = ranks(lambda rank, reduce: advantages(name, *(x[cuts[rank]] for x in (REWARDS, VALID, GROUP)), 4, reduce))
    assert torch.allclose(torch.cat(parts), advantages(name), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "rank"])
def test_a_group_may_lie_on_two_ranks(name, ranks):
    cuts = [slice(0, 2), slice(2, 9)]
    parts = ranks(lambda rank, reduce: advantages(name, *(x[cuts[rank]] for x in (REWARDS, VALID, GROUP)), 4, reduce))
    assert torch.allclose(torch.cat(parts), advantages(name), atol=1e-12, rtol=0)


def test_rank_refuses_a_split_group_on_every_rank(ranks):
    cuts = [slice(0, 2), slice(2, 9)]

    def work(rank, reduce):
        with pytest.raises(ValueError, match="on one rank"):
            advantages("rank", *(x[cuts[rank]] for x in (REWARDS, VALID, GROUP)), 4, reduce)
        return True

    assert ranks(work) == [True, True]


def test_rank_counts_wins_and_losses():
    """Each 3 beats two, ties one and loses to one: (2 - 1) / 4. The 1 beats one and loses to three."""
    rewards = torch.tensor([3.0, 3.0, -8.0, 100.0, 1.0], dtype=torch.float64)
    got = advantages("rank", rewards, torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.int64), 1)
    assert got.tolist() == [0.25, 0.25, -1.0, 1.0, -0.5]


rewards_of_a_group = st.lists(st.integers(-50, 50), min_size=2, max_size=12)


@given(rewards_of_a_group, st.floats(0.1, 10), st.floats(-100, 100), st.sampled_from(["group_std", "rank"]))
def test_group_normalisation_ignores_scale_and_offset(rewards, scale, offset, name):
    assume(len(set(rewards)) > 1)
    x = torch.tensor(rewards, dtype=torch.float64)
    valid, group = torch.ones(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.int64)
    plain, moved = (advantages(name, r, valid, group, 1) for r in (x, scale * x + offset))
    assert torch.allclose(plain, moved, atol=1e-9)


@given(rewards_of_a_group, st.sampled_from(IN_GROUP))
def test_advantages_of_a_group_add_up_to_zero(rewards, name):
    x = torch.tensor(rewards, dtype=torch.float64)
    got = advantages(name, x, torch.ones(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.int64), 1)
    assert got.sum().item() == pytest.approx(0, abs=1e-9)


@given(rewards_of_a_group)
def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others(rewards):
    x = torch.tensor(rewards, dtype=torch.float64)
    ones, group = torch.ones(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.int64)
    expected = [r - statistics.fmean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]
    assert advantages("leave_one_out", x, ones, group, 1).tolist() == pytest.approx(expected, abs=1e-9)


@every("name", ["whiten", "whiten_baseline", "outlier_filter"])
def test_whitening_is_over_valid_actions(name):
    """As verl whitens: every reward repeated at each of its sample's actions, mean and std over all of those."""
    lengths = [1, 4, 2, 3, 5, 1, 2, 7, 3]
    mask = torch.arange(7)[None, :] < torch.tensor(lengths)[:, None]
    batch = Batch(GROUP, 4, mask)
    got = ESTIMATORS.bind(Hook(name))(REWARDS, VALID, batch, Algorithm(advantage=name, std_eps=0.0))
    start = CENTRED if name == "whiten_baseline" else REWARDS.tolist()
    repeated = [start[i] for i in range(9) if i != 3 for _ in range(lengths[i])]
    mean, std = statistics.fmean(repeated), statistics.stdev(repeated)
    assert got.tolist() == pytest.approx([0 if i == 3 else (start[i] - mean) / std for i in range(9)], abs=1e-12)


@every("name", TABLE)
def test_only_estimators_that_stand_alone_tell_single_samples_apart(name):
    got = advantages(name, torch.tensor([0.0, 1.0, 5.0]), torch.ones(3, dtype=torch.bool), torch.arange(3), 3)
    assert bool((got != 0).any()) == (name in ALONE - {"zero"})


# ------------------------------------------------------------------ combining rewards

# Two groups of two. Reward a separates both; reward b, on another scale, only the first.
SCORES = torch.tensor([[0.0, 10.0], [1.0, 30.0], [0.0, 5.0], [4.0, 5.0]], dtype=torch.float64)
PAIRS = torch.tensor([0, 0, 1, 1])
WEIGHTS = torch.tensor([1.0, 0.5])
ALL = torch.ones(4, 2, dtype=torch.bool)
Z = math.sqrt(0.5)  # |A| of a pair under the sample standard deviation


def test_reward_sum_normalises_the_weighted_sum():
    advantage, reward, valid = combined(SCORES, ALL, WEIGHTS, PAIRS, 2, Algorithm(std_eps=0))
    assert reward.tolist() == [5, 16, 2.5, 6.5]
    assert advantage.tolist() == pytest.approx([-Z, Z, -Z, Z])
    assert valid.all()


def test_advantage_sum_weighs_normalised_rewards():
    algorithm = Algorithm(combine="advantage_sum", std_eps=0)
    advantage, reward, _ = combined(SCORES, ALL, WEIGHTS, PAIRS, 2, algorithm)
    assert advantage.tolist() == pytest.approx([-1.5 * Z, 1.5 * Z, -Z, Z])
    assert reward.tolist() == [5, 16, 2.5, 6.5]


def test_gdpo_divides_the_sum_by_its_batch_std():
    algorithm = Algorithm(combine="gdpo", std_eps=0)
    advantage, _, _ = combined(SCORES, ALL, WEIGHTS, PAIRS, 2, algorithm)
    std = statistics.stdev([-1.5 * Z, 1.5 * Z, -Z, Z])
    assert advantage.tolist() == pytest.approx([-1.5 * Z / std, 1.5 * Z / std, -Z / std, Z / std])
    assert advantage.mean().item() == pytest.approx(0, abs=1e-12)
    assert advantage.std().item() == pytest.approx(1)


def test_gdpo_keeps_silent_groups_at_exactly_zero():
    scores = torch.tensor([[0.1, 0.3], [0.1, 0.3], [0.1, 0.3], [0.0, 0.7], [1.0, 0.2]], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 1, 1])
    algorithm = Algorithm(combine="gdpo")
    advantage, _, _ = combined(scores, scores > -1, torch.ones(2), group, 2, algorithm)
    assert advantage[:3].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("combine", CHOICES["combine"])
def test_gdpo_and_sums_on_two_ranks_equal_one(combine, ranks):
    scores = torch.randn(8, 3, dtype=torch.float64)
    valid = torch.rand(8, 3) > 0.1
    group = torch.arange(8) // 4
    algorithm = Algorithm(combine=combine)

    def work(rank, reduce):
        rows = slice(4 * rank, 4 * rank + 4)
        return combined(scores[rows], valid[rows], torch.ones(3), group[rows], 2, algorithm, reduce)[0]

    whole = combined(scores, valid, torch.ones(3), group, 2, algorithm)[0]
    assert torch.allclose(torch.cat(ranks(work)), whole, atol=1e-12, rtol=0)
    assert whole.abs().max() > 0


@every("combine", CHOICES["combine"])
def test_a_failed_reward_leaves_the_sample_out(combine):
    """Row 1 has one failed reward of two: no reward, no advantage, and the others' numbers without it."""
    scores = torch.tensor([[0.0, 1.0], [5.0, NAN], [2.0, 4.0], [7.0, 3.0]], dtype=torch.float64)
    valid = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]], dtype=torch.bool)
    group = torch.zeros(4, dtype=torch.int64)
    algorithm = Algorithm(combine=combine)
    advantage, reward, sample_valid = combined(scores, valid, WEIGHTS, group, 1, algorithm)
    assert sample_valid.tolist() == [True, False, True, True]
    assert advantage[1] == 0
    assert reward[1].isnan()
    rows = [0, 2, 3]
    alone = combined(scores[rows], valid[rows], WEIGHTS, group[rows], 1, algorithm)
    assert torch.equal(advantage[rows], alone[0])
    assert torch.equal(reward[rows], alone[1])


def test_a_score_that_is_not_finite_counts_as_failed():
    scores = torch.tensor([[1.0], [NAN], [3.0], [math.inf]], dtype=torch.float64)
    ok = torch.ones(4, 1, dtype=torch.bool)
    group = torch.zeros(4, dtype=torch.int64)
    advantage, _, valid = combined(scores, ok, torch.ones(1), group, 1, Algorithm(std_eps=0))
    assert valid.tolist() == [True, False, True, False]
    assert advantage.tolist() == pytest.approx([-Z, 0, Z, 0])


def test_a_row_of_failures_gives_zero_advantages():
    advantage, reward, valid = one_column([NAN, NAN], Algorithm())
    assert advantage.tolist() == [0, 0]
    assert reward.isnan().all()
    assert not valid.any()


@every("combine", ["reward_sum", "advantage_sum"])
def test_a_reward_that_does_not_apply_contributes_nothing(combine):
    """The second reward applies to the last two samples only: it compares them with each other alone."""
    scores = torch.tensor([[0.0, NAN], [2.0, NAN], [4.0, 1.0], [6.0, 3.0]], dtype=torch.float64)
    applicable = torch.tensor([[1, 0], [1, 0], [1, 1], [1, 1]], dtype=torch.bool)
    group = torch.zeros(4, dtype=torch.int64)
    algorithm = Algorithm(combine=combine, advantage="group_mean")
    got = combined(scores, applicable, torch.ones(2), group, 1, algorithm, applicable=applicable)
    advantage, reward, valid = got
    assert valid.all()
    assert reward.tolist() == [0, 2, 5, 9]
    expected = [-4, -2, 1, 5] if combine == "reward_sum" else [-3, -1, 1 - 1, 3 + 1]
    assert advantage.tolist() == pytest.approx(expected)


def test_a_sample_to_which_no_reward_applies_is_left_out():
    scores = torch.tensor([[1.0], [3.0], [0.0]], dtype=torch.float64)
    applicable = torch.tensor([[True], [True], [False]])
    group = torch.zeros(3, dtype=torch.int64)
    algorithm = Algorithm(advantage="group_mean")
    ok = torch.ones_like(applicable)
    advantage, reward, valid = combined(scores, ok, torch.ones(1), group, 1, algorithm, applicable=applicable)
    assert advantage.tolist() == [-1, 1, 0]
    assert valid.tolist() == [True, True, False]
    assert reward[2].isnan()


# A reward of weight 0 says one of these of every sample; the sample that it speaks of is otherwise fine.
MONITORS = {
    "failed": (NAN, False, True),
    "not finite": (math.inf, True, True),
    "not applicable": (NAN, True, False),
    "a number": (1e6, True, True),
}


@every("combine", CHOICES["combine"])
@every("what", MONITORS)
def test_a_monitor_touches_nothing(combine, what):
    """A reward of weight 0 beside SCORES, with anything in its column at sample 1."""
    score, fine, applies = MONITORS[what]
    scores = torch.cat([SCORES, torch.tensor([[0.1], [score], [0.3], [0.4]], dtype=torch.float64)], 1)
    valid, applicable = torch.ones(4, 3, dtype=torch.bool), torch.ones(4, 3, dtype=torch.bool)
    valid[1, 2], applicable[1, 2] = fine, applies
    algorithm, weights = Algorithm(combine=combine), torch.tensor([1.0, 0.5, 0.0])
    got = combined(scores, valid, weights, PAIRS, 2, algorithm, applicable=applicable)
    expected = combined(SCORES, ALL, WEIGHTS, PAIRS, 2, algorithm)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@every("penalised", [False, True])
def test_a_sample_to_which_only_a_monitor_applies_has_no_reward(penalised):
    """Neither the monitor's number nor the KL makes a reward out of nothing."""
    scores = torch.tensor([[1.0, 7.0], [3.0, 7.0], [NAN, 7.0]], dtype=torch.float64)
    applicable = torch.tensor([[1, 1], [1, 1], [0, 1]], dtype=torch.bool)
    penalty = torch.tensor([0.0, 0.0, 2.0]) if penalised else None
    got = combined(
        scores,
        torch.ones_like(applicable),
        torch.tensor([1.0, 0.0]),
        torch.zeros(3, dtype=torch.int64),
        1,
        Algorithm(advantage="group_mean"),
        applicable=applicable,
        penalty=penalty,
    )
    assert got[0].tolist() == [-1, 1, 0]
    assert got[1][2].isnan()
    assert got[2].tolist() == [True, True, False]


def test_rewards_that_only_shapers_read_decide_on_validity():
    """Without any weight the sum is 0 wherever a reward applies, and a shaper makes the reward from their names."""
    scores = torch.tensor([[1.0], [NAN], [3.0]], dtype=torch.float64)
    batch = full(torch.zeros(3, dtype=torch.int64), 1)
    batch = Batch(batch.group, 1, batch.mask, scores={"a": scores[:, 0]})
    shape = {"name": "staged", "boundaries": [], "weights": [{"a": 2.0}]}
    _, reward, valid = estimate(scores, scores.isfinite(), torch.zeros(1), batch, Algorithm(shape=[shape]))
    assert valid.tolist() == [True, False, True]
    assert reward[valid].tolist() == [2, 6]


def test_the_penalty_comes_off_the_shaped_reward():
    """kl_coef * k1 of the sample: after the vote that replaces the reward, before the group's mean."""
    scores = torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64)
    batch = full(torch.zeros(3, dtype=torch.int64), 1).having(columns={"vote": torch.tensor([1.0, 1.0, 2.0])})
    algorithm = Algorithm(advantage="group_mean", shape=["majority_vote"])
    penalty = torch.tensor([0.3, 0.0, 0.0])
    advantage, reward, _ = estimate(scores, scores > -1, torch.ones(1), batch, algorithm, penalty=penalty)
    assert reward.tolist() == pytest.approx([0.7, 1.0, 0.0])
    assert advantage.tolist() == pytest.approx([0.7 - 1.7 / 3, 1 - 1.7 / 3, -1.7 / 3])


def test_filters_look_at_the_reward_without_its_penalty():
    scores = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    algorithm = Algorithm(advantage="none", filters=[{"name": "accuracy_band", "low": 0.5, "high": 0.5}])
    group = torch.zeros(2, dtype=torch.int64)
    got = combined(scores, scores > -1, torch.ones(1), group, 1, algorithm, penalty=torch.tensor([0.2, 0.2]))
    assert got[2].all()
    assert got[0].tolist() == pytest.approx([0.8, -0.2])


def test_clamp_limits_the_combined_advantage():
    algorithm = Algorithm(advantage="group_mean", clamp=3.0)
    assert one_column([0.0, 0.0, 0.0, 8.0], algorithm)[0].tolist() == [-2, -2, -2, 3]


def test_flow_grpo_by_hand():
    """Two groups with means 1 and 11; the std of all four raw rewards is sqrt(26)."""
    algorithm = Algorithm(advantage="global_std", ddof=0, std_eps=1e-4, clamp=5.0)
    scores = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    got, _, _ = combined(scores, scores > -1, torch.ones(1), PAIRS, 2, algorithm)
    a = 1 / (math.sqrt(26) + 1e-4)
    assert got.tolist() == pytest.approx([-a, a, -a, a])


# ------------------------------------------------------------------ outliers, shapers, filters


def outliers(rewards, **options):
    x = torch.tensor(rewards, dtype=torch.float64)
    batch = full(torch.arange(len(x)))  # one sample a prompt, as in the paper
    hook = Hook("outlier_filter", options)
    return ESTIMATORS.bind(hook)(x, torch.ones(len(x), dtype=torch.bool), batch, Algorithm(std_eps=0.0))


def test_an_outlier_is_dropped_and_the_others_keep_their_z():
    """Twenty rewards of 4 to 4.8 and one of 9: its z is above 3, the others' below 1."""
    rewards = [4.0 + 0.2 * (i % 5) for i in range(20)] + [9.0]
    z = [(r - statistics.fmean(rewards)) / statistics.stdev(rewards) for r in rewards]
    assert z[-1] > 3
    assert outliers(rewards).tolist() == pytest.approx([*z[:-1], 0.0])


def test_the_released_filter_keeps_the_outlier_and_drops_the_rest():
    """It compares z with the raw mean +- 3: here 4.62 +- 3, which only the outlier's z of 4.2 is inside."""
    rewards = [4.0 + 0.2 * (i % 5) for i in range(20)] + [9.0]
    got = outliers(rewards, released=True)
    assert got[:-1].tolist() == [0.0] * 20
    assert got[-1].item() == pytest.approx((9.0 - statistics.fmean(rewards)) / statistics.stdev(rewards))


def test_the_released_filter_drops_what_is_beyond_ten():
    """n rewards of 8 but one of 8 + n have the mean 9, and that one z = (n - 1) / sqrt(n): 9.9 for 100, 10.05 for 103.
    Both are inside of 9 +- 3."""
    assert outliers([8.0] * 99 + [108.0], released=True).tolist() == pytest.approx([0.0] * 99 + [9.9])
    assert outliers([8.0] * 102 + [111.0], released=True).tolist() == [0.0] * 103


def test_shapers_run_in_order_on_the_sum_and_may_make_a_sample_invalid(monkeypatch):
    def double(reward, batch):
        return 2 * reward

    def above_two(reward, batch):
        return torch.where(reward > 2, reward - 2, torch.nan)

    for function in (double, above_two):
        monkeypatch.setitem(SHAPERS._entries, function.__name__, _entry(function))
    algorithm = Algorithm(advantage="group_mean", shape=["double", "above_two"])
    advantage, reward, valid = one_column([1.0, 2.0, 4.0, NAN], algorithm)
    assert torch.equal(reward.nan_to_num(-1), torch.tensor([-1.0, 2.0, 6.0, -1.0], dtype=torch.float64))
    assert valid.tolist() == [False, True, True, False]
    assert advantage.tolist() == [0, -2, 2, 0]


def test_a_filtered_sample_keeps_its_reward_and_leaves_the_statistics(monkeypatch):
    seen = []

    def below_nine(reward, valid, batch):
        seen.append((reward.tolist()[:3], valid.tolist()))
        return reward < 9

    monkeypatch.setitem(FILTERS._entries, "below_nine", _entry(below_nine))
    algorithm = Algorithm(advantage="group_mean", filters=["below_nine"])
    advantage, reward, valid = one_column([1.0, 3.0, 9.0, NAN], algorithm)
    assert seen == [([1.0, 3.0, 9.0], [True, True, True, False])]
    assert reward[:3].tolist() == [1, 3, 9]
    assert valid.tolist() == [True, True, False, False]
    assert advantage.tolist() == [-1, 1, 0, 0]


def _entry(function):
    from mmrl.core.registry import Entry

    return Entry(function.__name__, function)


def test_an_advantage_per_action_is_combined_and_clamped_per_action():
    """Token returns without a reference gap are the reward at each action; two columns weigh 1 and 0.5."""
    mask = torch.tensor([[True, True], [True, False]])
    features = {"logp_reference": torch.zeros(2, 2)}
    batch = Batch(torch.tensor([0, 0]), 1, mask, logp_old=torch.zeros(2, 2), features=features)
    scores = torch.tensor([[0.0, 3.0], [1.0, 3.0]], dtype=torch.float64)
    algorithm = Algorithm(advantage="whiten_tokens", combine="advantage_sum", std_eps=0.0, clamp=1.0)
    advantage, _, _ = estimate(scores, torch.ones_like(mask), torch.tensor([1.0, 0.5]), batch, algorithm)
    # First reward over three actions 0, 0, 1: mean 1/3, std sqrt(1/3); the second has no spread.
    z = [-1 / 3 / math.sqrt(1 / 3), 2 / 3 / math.sqrt(1 / 3)]
    assert advantage.flatten().tolist() == pytest.approx([z[0], z[0], min(z[1], 1.0), 0.0])
