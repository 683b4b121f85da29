"""Estimators that look inside a sample or a group, against tables by hand; two ranks, invalid samples, errors."""

import math
import statistics

import pytest
import torch

from mmrl.core.advantage import ESTIMATORS
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch, full
from mmrl.core.reduce import local
from mmrl.core.registry import Hook

NAN = float("nan")
Z = math.sqrt(0.5)  # |z| of two different values under the sample standard deviation


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def run(name, rewards, batch, valid=None, **options):
    valid = torch.ones(len(batch), dtype=torch.bool) if valid is None else valid
    return ESTIMATORS.bind(Hook(name, options))(tensor(rewards), valid, batch, Algorithm(std_eps=0.0))


# ------------------------------------------------------------------ strata


def strata(stratum, group=(0, 0, 0, 0, 0), reduce=local):
    return full(torch.tensor(group), 1 + max(group), reduce=reduce).having(columns={"stratum": tensor(stratum)})


def test_stratified_by_hand():
    """Strata {0, 2}, {3, 5} and a single 0; whole group: mean 2, std sqrt(4.5)."""
    rewards = [0, 2, 3, 5, 0]
    got = run("stratified", rewards, strata([1, 1, 4, 4, 0]), alpha=0.6)
    inside = [-Z, Z, -Z, Z, 0]
    whole = [(r - 2) / math.sqrt(18 / 4) for r in rewards]
    assert got.tolist() == pytest.approx([0.6 * a + 0.4 * b for a, b in zip(inside, whole)])


def test_stratified_with_one_stratum_is_group_std():
    batch = strata([2, 2, 2, 2, 2])
    got, plain = run("stratified", [0, 2, 3, 5, 0], batch), run("group_std", [0, 2, 3, 5, 0], batch)
    assert torch.allclose(got, plain, atol=1e-12)


def test_a_difference_between_strata_alone_is_no_signal_at_alpha_one():
    assert run("stratified", [1, 1, 4, 4, 9], strata([0, 0, 1, 1, 2]), alpha=1.0).tolist() == [0] * 5


def test_strata_of_different_groups_are_apart():
    batch = strata([0, 0, 0, 0], group=(0, 0, 1, 1))
    assert run("stratified", [0, 1, 10, 30], batch, alpha=1.0).tolist() == pytest.approx([-Z, Z, -Z, Z])


def test_strata_on_two_ranks_equal_one(ranks):
    """The largest stratum is known to one rank only, and group 1 lies on both."""
    rewards, stratum, group = [0.0, 2.0, 7.0, 3.0, 5.0, 1.0], [0, 0, 1, 1, 5, 1], (0, 0, 1, 1, 1, 1)
    cuts = [slice(0, 3), slice(3, 6)]

    def work(rank, reduce):
        cut = cuts[rank]
        batch = full(torch.tensor(group[cut]), 2, reduce=reduce).having(columns={"stratum": tensor(stratum[cut])})
        return run("stratified", rewards[cut], batch)

    assert torch.allclose(torch.cat(ranks(work)), run("stratified", rewards, strata(stratum, group)), atol=1e-12)


@pytest.mark.parametrize("stratum", [[0, -1], [0, 0.5]])
def test_strata_that_are_no_indices_are_an_error(stratum):
    with pytest.raises(ValueError, match="whole numbers from 0"):
        run("stratified", [0, 1], strata(stratum, group=(0, 0)))


def test_the_stratum_of_an_invalid_sample_may_be_missing():
    valid = torch.tensor([True, True, False])
    got = run("stratified", [0, 2, NAN], strata([1, 1, NAN], group=(0, 0, 0)), valid)
    assert got.tolist() == pytest.approx([-Z, Z, 0])


# ------------------------------------------------------------------ turns


def turns(step, reward, group, mask=None, reduce=local, n_groups=None):
    step = torch.tensor(step)
    mask = step > -2 if mask is None else mask
    batch = Batch(torch.tensor(group), n_groups or 1 + max(group), mask, reduce)
    return batch.having(features={"step": step, "step_reward": tensor(reward)})


# Two samples of two turns, two actions each, and an action of no turn. Sample 0 is right at both turns; sample 1 is
# wrong at the first, so that its second does not count for the first.
STEP = [[0, 0, 1, 1, -1], [0, 0, 1, 1, -1]]
REWARD = [[1, 1, 1, 1, 0], [0.4, 0.4, 1, 1, 0]]


def test_step_returns_stop_at_a_wrong_step():
    """Returns of turn 0: 1 + 0.5 and 0.4; of turn 1: 1 and 1, no spread. Episodes: 1 and 0."""
    batch = turns(STEP, REWARD, [0, 0])
    got = run("step_episode", [1, 0], batch, gamma=0.5, episode_weight=1.0, step_weight=2.0)
    expected = [[3 * Z, 3 * Z, Z, Z, Z], [-3 * Z, -3 * Z, -Z, -Z, -Z]]
    assert torch.allclose(got, tensor(expected), atol=1e-12)


def test_step_returns_reach_through_right_steps():
    """Three samples of three turns; sample 2 stops early. Turn 0: 1 + 1 + 0.2, 1 + 0, 1: z from statistics."""
    step = [[0, 1, 2], [0, 1, -1], [0, -1, -1]]
    reward = [[1, 1, 0.2], [1, 0, 0], [1, 0, 0]]
    batch = turns(step, reward, [0, 0, 0])
    got = run("step_episode", [0, 0, 0], batch, gamma=1.0)
    returns = [2.2, 1.0, 1.0]
    z = [(x - statistics.fmean(returns)) / statistics.stdev(returns) for x in returns]
    assert got[:, 0].tolist() == pytest.approx(z)
    assert got[:2, 1].tolist() == pytest.approx([Z, -Z])
    assert got[2, 1:].tolist() == [0, 0]
    assert got[0, 2] == 0


def test_a_step_counts_once_whatever_its_length():
    long = turns([[0, 0, 0, 0], [0, -2, -2, -2]], [[1, 1, 1, 1], [0, 0, 0, 0]], [0, 0])
    got = run("step_episode", [0, 0], long)
    assert got[:, 0].tolist() == pytest.approx([Z, -Z])
    assert got[1, 1:].tolist() == [0, 0, 0]  # masked


def test_a_step_reward_that_failed_is_left_out_and_is_not_a_zero():
    """Sample 2's second turn has no reward, so its first has no return; the others compare as if it were absent."""
    reward = [*REWARD, [1, 1, NAN, NAN, 0]]
    batch = turns([*STEP, STEP[0]], reward, [0, 0, 0])
    got = run("step_episode", [0, 0, 0], batch, gamma=0.5)
    alone = run("step_episode", [0, 0], turns(STEP, REWARD, [0, 0]), gamma=0.5)
    assert torch.allclose(got[:2], alone, atol=1e-12)
    assert got[2].tolist() == [0] * 5


def test_unequal_rewards_inside_a_step_are_an_error():
    with pytest.raises(ValueError, match="equal 'step_reward'"):
        run("step_episode", [0, 1], turns([[0, 0], [0, 0]], [[1, 0.5], [1, 1]], [0, 0]))


def test_steps_on_two_ranks_equal_one(ranks):
    """One rank has two turns and the other three; the group lies on both."""
    step, reward = [[0, 1, -1], [0, 1, -1], [0, 1, 2], [0, 1, 2]], [[1, 0.5, 0], [0, 1, 0], [1, 1, 0.3], [1, 0.2, 1]]
    rewards, group = [1.0, 0.0, 3.0, 1.0], [0, 0, 0, 0]

    def work(rank, reduce):
        cut = slice(2 * rank, 2 * rank + 2)
        return run("step_episode", rewards[cut], turns(step[cut], reward[cut], group[cut], reduce=reduce))

    whole = run("step_episode", rewards, turns(step, reward, group))
    assert torch.allclose(torch.cat(ranks(work)), whole, atol=1e-12)
    assert whole.abs().max() > 0.5


# ------------------------------------------------------------------ turns that are samples of their own

# Episode 0 is right twice and then wrong, episode 1 right and then half right, episode 2 wrong at once.
ROWS = {"episode": [0, 0, 0, 1, 1, 2], "step": [0, 1, 2, 0, 1, 0], "step_reward": [1, 1, 0.2, 1, 0.55, 0.19]}


def rows(columns, group=None, reduce=local, n_groups=None):
    group = torch.zeros(len(columns["step"]), dtype=torch.int64) if group is None else torch.tensor(group)
    batch = full(group, n_groups, reduce=reduce)
    return batch.having(columns={name: tensor(values) for name, values in columns.items()})


def standard(values):
    return [(x - statistics.fmean(values)) / statistics.stdev(values) for x in values]


def test_rows_get_their_steps_return_by_hand():
    """Returns: 1 + 0.5 (1 + 0.5 * 0.2), 1 + 0.1, 0.2; 1 + 0.5 * 0.55, 0.55; 0.19. Step 2 is alone."""
    got = run("step_rows", [1] * 6, rows(ROWS), gamma=0.5)
    first = standard([1.55, 1.275, 0.19])
    assert got.tolist() == pytest.approx([first[0], Z, 0, first[1], -Z, first[2]])


def test_rows_get_their_episodes_mean_reward_each_episode_once():
    """Means 2, 2 and 5, of 3, 2 and 1 samples: mean 3, std sqrt(3). The weights are taken too."""
    got = run("step_rows", [3, 3, 0, 1, 3, 5], rows(ROWS), step_weight=0.0, episode_weight=2.0)
    a = 2 / math.sqrt(3)
    assert got.tolist() == pytest.approx([-a, -a, -a, -a, -a, 2 * a])


def test_rows_as_released():
    """A wrong step gives nothing back, and each sample is compared with all: returns 1.5, 1, 0.2; 1, 0.55; 0.19."""
    rewards = [3, 3, 0, 1, 3, 4]
    got = run("step_rows", rewards, rows(ROWS), released=True)
    first, every = standard([1.5, 1.0, 0.19]), standard(rewards)
    steps = [first[0], Z, 0, first[1], -Z, first[2]]
    assert got.tolist() == pytest.approx([a + b for a, b in zip(steps, every)])


def test_rows_are_the_turns_of_one_sample_taken_apart():
    """The same numbers as `step_episode`, whose samples hold all turns of an episode."""
    whole = turns([[0, 1, 2], [0, 1, -1], [0, -1, -1]], [[1, 1, 0.2], [1, 0.55, 0], [0.19, 0, 0]], [0, 0, 0])
    together = run("step_episode", [2, 1, 5], whole, correct=0.9)
    apart = run("step_rows", [2, 2, 2, 1, 1, 5], rows(ROWS))
    assert torch.allclose(apart, together.flatten()[[0, 1, 2, 3, 4, 6]], atol=1e-12)


def test_rows_in_any_order_and_in_two_groups():
    columns = {name: values * 2 for name, values in ROWS.items()}
    order = torch.randperm(12)
    mixed = {name: tensor(values)[order].tolist() for name, values in columns.items()}
    group, rewards = torch.tensor([0] * 6 + [1] * 6)[order].tolist(), tensor([3, 3, 0, 1, 3, 5] * 2)[order].tolist()
    got = torch.zeros(12, dtype=torch.float64)
    got[order] = run("step_rows", rewards, rows(mixed, group))
    alone = run("step_rows", [3, 3, 0, 1, 3, 5], rows(ROWS))
    assert torch.allclose(got, torch.cat([alone, alone]), atol=1e-12)


def test_a_row_that_failed_is_left_out_with_the_returns_that_it_enters():
    """A fourth episode without a reward at its step 1: its step 0 has no return either, its step 2 has."""
    columns = {
        "episode": ROWS["episode"] + [3, 3, 3],
        "step": ROWS["step"] + [0, 1, 2],
        "step_reward": ROWS["step_reward"] + [1, NAN, 0.4],
    }
    valid = torch.tensor([True] * 7 + [False, True])
    got = run("step_rows", [1] * 7 + [NAN, 1], rows(columns), valid)
    alone = run("step_rows", [1] * 6, rows(ROWS))
    assert torch.allclose(got[[0, 1, 3, 4, 5]], alone[[0, 1, 3, 4, 5]], atol=1e-12)
    assert got[[2, 6, 7, 8]].tolist() == pytest.approx([-Z, 0, 0, Z])


def test_an_invalid_row_may_lack_its_columns():
    columns = {name: [*values, NAN] for name, values in ROWS.items()}
    valid = torch.tensor([True] * 6 + [False])
    got = run("step_rows", [3, 3, 0, 1, 3, 5, NAN], rows(columns), valid)
    assert got.tolist() == pytest.approx([*run("step_rows", [3, 3, 0, 1, 3, 5], rows(ROWS)).tolist(), 0])


@pytest.mark.parametrize("released", [False, True])
def test_rows_on_two_ranks_equal_one(ranks, released):
    """Episodes and groups lie across the cut, and one rank alone has the most steps and episodes."""
    columns = {name: values * 2 for name, values in ROWS.items()}
    group, rewards = [0] * 6 + [1] * 6, [3.0, 3.0, 0.0, 1.0, 3.0, 5.0, 1.0, 0.0, 2.0, 2.0, 1.0, 0.5]
    cuts = [[1, 3, 4, 5, 6, 9], [0, 2, 7, 8, 10, 11]]

    def work(rank, reduce):
        mine = {name: [values[i] for i in cuts[rank]] for name, values in columns.items()}
        batch = rows(mine, [group[i] for i in cuts[rank]], reduce, n_groups=2)
        return run("step_rows", [rewards[i] for i in cuts[rank]], batch, released=released)

    whole = run("step_rows", rewards, rows(columns, group), released=released)
    assert torch.allclose(torch.cat(ranks(work)), whole[cuts[0] + cuts[1]], atol=1e-12)
    assert whole.abs().max() > 0.5


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"episode": [0, 0], "step": [0, 0], "step_reward": [1, 1]}, "the same `step` of the same `episode`"),
        ({"episode": [0, 1], "step": [0, -1], "step_reward": [1, 1]}, "'step' must hold whole numbers"),
        ({"episode": [0, NAN], "step": [0, 1], "step_reward": [1, 1]}, "'episode' must hold whole numbers"),
        ({"episode": [0, 0.5], "step": [0, 1], "step_reward": [1, 1]}, "'episode' must hold whole numbers"),
        ({"episode": [0, 1], "step": [0, 0]}, "no column 'step_reward'"),
    ],
)
def test_rows_that_are_no_steps_are_an_error(columns, told):
    with pytest.raises(ValueError, match=told):
        run("step_rows", [0, 1], rows(columns))


# ------------------------------------------------------------------ macro actions


def macros(segment, group, gain=None):
    segment = torch.tensor(segment)
    features = {"segment": segment} | ({} if gain is None else {"gain": tensor(gain)})
    return Batch(torch.tensor(group), 1 + max(group), segment > -2).having(features=features)


def test_macro_actions_without_own_rewards_broadcast_the_sample():
    """Sample 0 has two macro actions of reward 1, sample 1 one of 4: mean 2, std sqrt(3)."""
    got = run("macro", [1, 4], macros([[0, 0, 1], [0, 0, -1]], [0, 0]))
    a = 1 / math.sqrt(3)
    assert torch.allclose(got, tensor([[-a, -a, -a], [2 * a, 2 * a, 0]]), atol=1e-12)


def test_macro_returns_by_hand():
    """Segment means 2 and 5 discounted by 0.5: returns 2 + 2.5 + 1 and 5 + 1; sample 1: 0 + 4."""
    batch = macros([[0, 0, 1], [0, 0, -1]], [0, 0], gain=[[1, 3, 5], [0, 0, 9]])
    got = run("macro", [1, 4], batch, gamma=0.5, reward_feature="gain")
    returns = [5.5, 6.0, 4.0]
    z = [(x - statistics.fmean(returns)) / statistics.stdev(returns) for x in returns]
    assert torch.allclose(got, tensor([[z[0], z[0], z[1]], [z[2], z[2], 0]]), atol=1e-12)


def test_an_invalid_sample_has_no_macro_advantage():
    batch = macros([[0, 1], [0, 1], [0, 1]], [0, 0, 0])
    got = run("macro", [1, 4, NAN], batch, torch.tensor([True, True, False]))
    assert torch.equal(got[:2], run("macro", [1, 4], macros([[0, 1], [0, 1]], [0, 0])))
    assert got[2].tolist() == [0, 0]


# ------------------------------------------------------------------ tokens


def test_token_returns_take_the_later_divergences_off_and_whiten_over_tokens():
    """Sample 0: gaps 0.1 and 0.3, sample 1: one action of gap -0.2; with beta 2: 1 - 0.8, 1 - 0.6, 0 + 0.4."""
    mask = torch.tensor([[True, True], [True, False]])
    features = {"logp_reference": tensor([[-1.1, -1.3], [-0.8, NAN]])}
    batch = Batch(torch.tensor([0, 1]), 2, mask, logp_old=tensor([[-1.0, -1.0], [-1.0, NAN]]), features=features)
    got = run("whiten_tokens", [1, 0], batch, beta=2.0)
    returns = [0.2, 0.4, 0.4]
    z = [(x - statistics.fmean(returns)) / statistics.stdev(returns) for x in returns]
    assert torch.allclose(got, tensor([[z[0], z[1]], [z[2], 0]]), atol=1e-12)


def test_token_returns_without_gaps_weigh_samples_by_their_length():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    zeros = torch.zeros(2, 3)
    batch = Batch(torch.tensor([0, 1]), 2, mask, logp_old=zeros, features={"logp_reference": zeros})
    got = run("whiten_tokens", [1, 0], batch)
    std = statistics.stdev([1, 1, 1, 0])
    assert got[mask].tolist() == pytest.approx([0.25 / std] * 3 + [-0.75 / std])


def returns_of(*gaps):
    """One action a sample with these gaps to the reference, old log-prob -1."""
    n = len(gaps)
    features = {"logp_reference": tensor([[-1 - gap] for gap in gaps])}
    return Batch(
        torch.arange(n), n, torch.ones(n, 1, dtype=torch.bool), logp_old=torch.full((n, 1), -1.0), features=features
    )


def test_outliers_among_the_returns_of_tokens_are_dropped():
    """Twenty returns from 4 to 4.8 and one of 9, of which 1 is the KL's: gap -10 times beta 0.1."""
    batch = returns_of(*[0.0] * 20, -10.0)
    rewards = [4.0 + 0.2 * (i % 5) for i in range(20)] + [8.0]
    returns = [*rewards[:-1], 9.0]
    z = [(r - statistics.fmean(returns)) / statistics.stdev(returns) for r in returns]
    assert z[-1] > 3 > max(map(abs, z[:-1]))
    got = run("outlier_filter_tokens", rewards, batch, beta=0.1)
    assert got[:, 0].tolist() == pytest.approx([*z[:-1], 0.0])
    released = run("outlier_filter_tokens", rewards, batch, beta=0.1, released=True)  # inside of 4.62 +- 3
    assert released[:, 0].tolist() == pytest.approx([*[0.0] * 20, z[-1]])


def test_an_outlier_of_one_token_leaves_the_others_of_its_sample():
    """The gap of the last token counts in all of its sample's returns, that of the first in its own alone."""
    mask = torch.ones(11, 2, dtype=torch.bool)
    reference = torch.full((11, 2), -1.0, dtype=torch.float64)
    reference[10, 0] = -2.0
    batch = Batch(
        torch.arange(11), 11, mask, logp_old=torch.full((11, 2), -1.0), features={"logp_reference": reference}
    )
    got = run("outlier_filter_tokens", [float(i % 2) for i in range(10)] + [0.0], batch, beta=9.0)
    assert got[10].tolist()[0] == 0 and got[10].tolist()[1] != 0
