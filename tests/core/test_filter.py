"""Groups without signal, and every filter by hand; on one rank and on two."""

from dataclasses import replace

import pytest
import torch
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.filter import FILTERS, zero_variance, zero_variance_share
from mmrl.core.reduce import local
from mmrl.core.registry import Hook

NAN = float("nan")

# Group 0 has signal and an invalid sample, group 1 has none, group 2 only an invalid sample, group 3 no samples.
ADVANTAGE = torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
VALID = torch.tensor([1, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 2])
KEEP = [True, True, True, False, False, False, False]


def test_hand_table():
    assert zero_variance(ADVANTAGE, VALID, GROUP, 4, local).tolist() == KEEP
    # Of the two groups with a valid sample, one is silent.
    assert zero_variance_share(ADVANTAGE, VALID, GROUP, 4, local).item() == 0.5


def test_an_invalid_sample_gives_no_signal():
    advantage = torch.tensor([0.0, 3.0])
    valid, group = torch.tensor([True, False]), torch.tensor([0, 0])
    assert zero_variance(advantage, valid, group, 1, local).tolist() == [False, False]
    assert zero_variance_share(advantage, valid, group, 1, local).item() == 1.0


def test_no_valid_sample_at_all():
    assert zero_variance_share(ADVANTAGE, torch.zeros_like(VALID), GROUP, 4, local).item() == 0.0


@pytest.mark.parametrize("cut", [0, 2, 4, 7])
def test_two_ranks_equal_one(ranks, cut):
    """Cut inside group 0 too: the half without signal of its own is kept for the other's."""
    rows = [slice(0, cut), slice(cut, 7)]

    def work(rank, reduce):
        own = (ADVANTAGE[rows[rank]], VALID[rows[rank]], GROUP[rows[rank]], 4, reduce)
        return zero_variance(*own).tolist(), zero_variance_share(*own).item()

    (first, share), (second, other) = ranks(work)
    assert first + second == KEEP
    assert share == other == 0.5


# ------------------------------------------------------------------ filters


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def batch_of(group, scores=None, columns=None, truncated=None, step=0):
    group = torch.tensor(group)
    return Batch(
        group,
        int(group.max()) + 1,
        torch.ones(len(group), 1, dtype=torch.bool),
        truncated=None if truncated is None else torch.tensor(truncated),
        scores={name: f64(*x) for name, x in (scores or {}).items()},
        columns={name: torch.tensor(x) for name, x in (columns or {}).items()},
        step=step,
    )


def kept(name, reward, batch, **options):
    """Indices of what stays; a NaN reward is an invalid sample."""
    reward = f64(*reward)
    return torch.nonzero(FILTERS.bind(Hook(name, options))(reward, reward.isfinite(), batch)).flatten().tolist()


# Means 1/3 (of three valid), 1, 0, and no valid sample at all.
BAND = [0, 1, 0, NAN, 1, 1, 0, 0, NAN]
BANDS = [0, 0, 0, 0, 1, 1, 2, 2, 3]


@every(
    "low, high, expected",
    [
        (0.2, 0.8, [0, 1, 2]),
        (0.2, 1.0, [0, 1, 2, 4, 5]),
        (0.0, 0.2, [6, 7]),
        (0.0, 1.0, [0, 1, 2, 4, 5, 6, 7]),
        (0.4, 0.8, []),
    ],
)
def test_accuracy_band(low, high, expected):
    assert kept("accuracy_band", BAND, batch_of(BANDS), low=low, high=high) == expected


def test_accuracy_band_of_a_named_score():
    """Group 0 has mean .5 of the samples with that score; no valid sample of group 1 has it."""
    batch = batch_of([0, 0, 0, 1, 1], scores={"exact": [0, 1, NAN, NAN, 0]})
    assert kept("accuracy_band", [5, 5, 5, 5, NAN], batch, low=0.0, high=0.5, score="exact") == [0, 1, 2]


def test_accuracy_band_refuses_crossed_bounds():
    with pytest.raises(ValueError, match=r"low=0\.9 is above high=0\.1"):
        kept("accuracy_band", [1], batch_of([0]), low=0.9, high=0.1)


def test_spread_is_strictly_above():
    """0, 1 has a population std of .5, a sample std of .707; 0, .4 of .2 and .283; a single sample has none."""
    batch, reward = batch_of([0, 0, 1, 1, 2, 2]), [0, 1, 0, 0.4, 3, NAN]
    assert kept("spread", reward, batch, above=0.25) == [0, 1, 2, 3]
    assert kept("spread", reward, batch, above=0.25, ddof=0) == [0, 1]
    assert kept("spread", reward, batch, above=0.5, ddof=0) == []
    assert kept("spread", reward, batch_of([0, 0, 1, 1, 2, 2], {"x": [1, 1, 0, 9, 0, 1]}), score="x") == [2, 3]


@every("most, expected", [(0, [3]), (1, [2, 3]), (2, [1, 2, 3])])
def test_staleness_keeps_an_age_of_exactly_the_limit(most, expected):
    """At step 5, versions 2, 3, 4, 5 have ages 3, 2, 1, 0; the last sample is invalid."""
    batch = batch_of([0] * 5, columns={"version": [2, 3, 4, 5, 5]}, step=5)
    assert kept("staleness", [1, 1, 1, 1, NAN], batch, most=most) == expected


def test_a_version_of_the_future_is_refused():
    with pytest.raises(ValueError, match=r"from 0 to the step \(5\)"):
        kept("staleness", [1], batch_of([0], columns={"version": [6]}, step=5))


def test_truncated():
    batch = batch_of([0, 0, 1], truncated=[True, False, False])
    assert kept("truncated", [1, 0, NAN], batch) == [1]
    with pytest.raises(ValueError, match="no truncated"):
        kept("truncated", [1], batch_of([0]))


def test_what_a_filter_drops_leaves_the_group_mean():
    """Without the truncated 8 the mean is 1, not 10/3."""
    batch = batch_of([0, 0, 0], truncated=[False, True, False])
    algorithm = Algorithm(advantage="group_mean", filters=["truncated"])
    ok = torch.ones(3, 1, dtype=torch.bool)
    advantage, _, valid = estimate(f64(0, 8, 2)[:, None], ok, torch.ones(1), batch, algorithm)
    assert advantage.tolist() == [-1, 0, 1]
    assert valid.tolist() == [True, False, True]


# ------------------------------------------------------------------ prof

# Four correct (0-3) and four incorrect (4-7): the best correct are 1 and 3, the lowest incorrect 5 and 6.
EIGHT = [1, 1, 1, 1, 0, 0, 0, 0]
PROCESS = [0.1, 0.9, 0.2, 0.8, 0.7, 0.3, 0.4, 0.6]


@every(
    "reward, keep, expected",
    [
        (EIGHT, 4, [1, 3, 5, 6]),
        (EIGHT, 3, [1, 3, 5]),
        (EIGHT, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ([1, 0, 0, 0, 0, 0, 0, 0], 4, [0, 2, 5, 6]),  # one correct: the three lowest incorrect fill up
        ([1, 1, 1, 1, 1, 1, 1, 0], 4, [1, 3, 4, 7]),
        ([1, 1, 1, 1, 1, 1, 1, 1], 2, [1, 3]),
        ([1, NAN, 1, NAN, 0, NAN, 0, NAN], 2, [2, 6]),
    ],
)
def test_prof_by_hand(reward, keep, expected):
    batch = batch_of([0] * 8, scores={"process": PROCESS})
    assert kept("prof", reward, batch, keep=keep) == expected


def test_prof_drops_a_sample_that_cannot_be_ranked_and_takes_the_earlier_of_equals():
    batch = batch_of([0] * 5, scores={"steps": [NAN, 0.5, 0.5, 0.5, 0.5]})
    assert kept("prof", [1, 1, 1, 0, 0], batch, process="steps", keep=2) == [1, 3]


def test_prof_correct_only_draws_the_incorrect():
    """The correct ones are those of the rule; over the steps every incorrect one is drawn about equally often."""
    counts = dict.fromkeys(range(4, 8), 0)
    for step in range(400):
        batch = batch_of([0] * 8, scores={"process": PROCESS}, step=step)
        found = kept("prof", EIGHT, batch, correct_only=True)
        assert found == kept("prof", EIGHT, batch, correct_only=True)
        assert found[:2] == [1, 3]
        for index in found[2:]:
            counts[index] += 1
    assert sum(counts.values()) == 800
    assert all(160 <= count <= 240 for count in counts.values())  # 200 expected, std 10


@given(st.lists(st.booleans(), min_size=1, max_size=10), st.integers(1, 6), st.booleans())
def test_prof_keeps_as_many_as_it_can_and_balances(right, keep, correct_only):
    batch = batch_of([0] * len(right), scores={"process": [i / 10 for i in range(len(right))]})
    found = kept("prof", [float(x) for x in right], batch, keep=keep, correct_only=correct_only)
    assert len(found) == min(keep, len(right))
    n_right = sum(right[i] for i in found)
    n_wrong = len(found) - n_right
    if abs(n_right - n_wrong) > 1:  # only because the other side has no more
        fewer = n_right < n_wrong
        assert min(n_right, n_wrong) == sum(x == fewer for x in right)


# ------------------------------------------------------------------ multiple


@every("of, sizes", [(1, [5, 3, 1]), (4, [4, 3, 1]), (5, [2, 2, 1]), (7, [3, 3, 1]), (9, [5, 3, 1])])
def test_multiple_takes_from_the_largest_group(of, sizes):
    """Nine samples in groups of 5, 3 and 1; taking 4 away goes 5, 4, 3 (the first of two with 3), 3."""
    group = [0] * 5 + [1] * 3 + [2]
    found = kept("multiple", [1] * 9, batch_of(group), of=of)
    assert [sum(group[i] == g for i in found) for g in range(3)] == sizes


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=20), st.integers(1, 8))
def test_multiple_keeps_the_largest_multiple(samples, of):
    group, reward = [g for g, _ in samples], [1.0 if ok else NAN for _, ok in samples]
    found = kept("multiple", reward, batch_of(group), of=of)
    assert len(found) == sum(ok for _, ok in samples) // of * of
    assert all(samples[i][1] for i in found)


# ------------------------------------------------------------------ all of them

ALL = {
    "accuracy_band": {"low": 0.3, "high": 0.7},
    "spread": {"above": 0.5},
    "staleness": {"most": 1},
    "truncated": {},
    "prof": {"keep": 2, "correct_only": True},
    "multiple": {"of": 5},
}


def anything(reward=(0, 1, 1, NAN, 0, 0, 1, 0, 1, 1, 1, NAN, 0, 1, 0, 1)):
    return f64(*reward), batch_of(
        [i // 4 for i in range(16)],
        scores={"process": [i * 7 % 16 / 16 for i in range(16)]},
        columns={"version": [1 + i % 3 for i in range(16)]},
        truncated=[i % 5 == 0 for i in range(16)],
        step=3,
    )


def test_the_table_is_complete():
    assert set(ALL) == set(FILTERS)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cut", [0, 4, 12])
def test_filters_on_two_ranks_equal_one(name, cut, ranks):
    reward, batch = anything()

    def work(rank, reduce):
        rows = torch.arange(16)[[slice(0, cut), slice(cut, 16)][rank]]
        part = replace(batch.at(rows, torch.tensor([0])), reduce=reduce)
        return FILTERS.bind(Hook(name, ALL[name]))(reward[rows], reward[rows].isfinite(), part)

    whole = FILTERS.bind(Hook(name, ALL[name]))(reward, reward.isfinite(), batch)
    assert torch.equal(torch.cat(ranks(work)), whole)
    assert 0 < whole.sum() < reward.isfinite().sum()


@every("name", ALL)
def test_invalid_samples_are_never_kept_and_change_nothing(name):
    """Their reward may hold anything, and the others are chosen as if they were not there."""
    reward, batch = anything()
    valid = reward.isfinite()
    choose = FILTERS.bind(Hook(name, ALL[name]))
    whole = choose(reward, valid, batch)
    assert not whole[~valid].any()
    assert torch.equal(choose(reward.nan_to_num(1e9), valid, batch), whole)
    rows = torch.nonzero(valid).flatten()
    assert torch.equal(choose(reward[rows], valid[rows], batch.at(rows, torch.tensor([0]))), whole[rows])


@pytest.mark.parametrize("name", ["prof", "multiple"])
def test_choices_inside_groups_refuse_a_split_group_on_every_rank(name, ranks):
    reward, batch = anything()

    def work(rank, reduce):
        rows = torch.arange(16)[[slice(0, 6), slice(6, 16)][rank]]
        part = replace(batch.at(rows, torch.tensor([0])), reduce=reduce)
        with pytest.raises(ValueError, match="on one rank"):
            FILTERS.bind(Hook(name, ALL[name]))(reward[rows], reward[rows].isfinite(), part)
        return True

    assert ranks(work) == [True, True]
