"""Every shaper against numbers worked out by hand, its invariances, and two ranks against one."""

import math
from dataclasses import replace

import pytest
import torch
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.registry import Hook
from mmrl.core.shape import SHAPERS, bmas

NAN = float("nan")


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def batch_of(group, lengths=None, scores=None, columns=None, step=0, n_groups=None):
    group = torch.tensor(group)
    return Batch(
        group,
        int(group.max()) + 1 if n_groups is None else n_groups,
        torch.ones(len(group), 1, dtype=torch.bool),
        length=None if lengths is None else torch.tensor(lengths),
        scores={name: f64(*x) for name, x in (scores or {}).items()},
        columns={name: torch.tensor(x) if isinstance(x[0], int) else f64(*x) for name, x in (columns or {}).items()},
        step=step,
    )


def shape(name, reward, batch, **options):
    return SHAPERS.bind(Hook(name, options))(f64(*reward), batch).tolist()


def same(got, expected):
    assert got == pytest.approx(expected, nan_ok=True, abs=1e-12)


# ------------------------------------------------------------------ length


@every("floor, beyond", [(-1.0, -1.0), (None, -1.5)])
def test_soft_overlong(floor, beyond):
    """Limit 100, buffer 20: nothing up to 80, half way at 90, -1 at 100, and at 110 as the floor says."""
    batch = batch_of([0] * 6, [10, 80, 90, 100, 110, 90])
    got = shape("soft_overlong", [1, 1, 1, 0, 0, NAN], batch, limit=100, buffer=20, floor=floor)
    same(got, [1, 1, 0.5, -1, beyond, NAN])


def test_soft_overlong_needs_a_buffer_inside_the_limit():
    with pytest.raises(ValueError, match="buffer=30 is above limit=20"):
        shape("soft_overlong", [1], batch_of([0], [5]), limit=20, buffer=30)


# Shares of correct answers: group 0 has 2 of 3 (and a sample without a reward), group 1 all of 2, group 2 none.
LAMBDA = batch_of([0, 0, 0, 0, 1, 1, 2, 2], [10, 30, 500, 900, 7, 7, 1, 99])
RIGHT = [1, 1, 0, NAN, 1, 1, 0, 0]
SHORT, LONG = (1 - 0.2 / (1 + math.exp(-z)) for z in (-1, 1))  # lengths 10 and 30: mean 20, population std 10


@every(
    "options, expected",
    [
        # ceil(.2 * 3) = 1 group, the one with all correct; equal lengths have z = 0.
        ({}, [1, 1, 0, NAN, 0.9, 0.9, 0, 0]),
        ({"top": 0.5}, [SHORT, LONG, 0, NAN, 0.9, 0.9, 0, 0]),
        ({"top": 0.0}, RIGHT),
        ({"mode": "threshold", "threshold": 0.6}, [SHORT, LONG, 0, NAN, 0.9, 0.9, 0, 0]),
        ({"mode": "threshold", "threshold": 0.7}, [1, 1, 0, NAN, 0.9, 0.9, 0, 0]),
    ],
)
def test_length_lambda(options, expected):
    same(shape("length_lambda", RIGHT, LAMBDA, **options), expected)


@every(("rewards", "expected"), [([NAN, 1, 1], [NAN, 0.9, 0.9]), ([NAN, 1, 0], [NAN, 0.9, 0])])
def test_length_lambda_takes_all_of_equal_groups_and_counts_only_groups_with_a_reward(rewards, expected):
    """Group 0 has no reward and group 3 no samples, so half of two groups is one, or both where they are equal."""
    batch = batch_of([0, 1, 2], [5, 5, 5], n_groups=4)
    same(shape("length_lambda", rewards, batch, top=0.5), expected)


def test_length_lambda_ignores_the_unit_of_length():
    one = shape("length_lambda", RIGHT, LAMBDA, top=1.0)
    same(shape("length_lambda", RIGHT, replace(LAMBDA, length=LAMBDA.lengths * 7 + 3), top=1.0), one)


# ------------------------------------------------------------------ several rewards

SCORES = {"search": [0.3, 0.3, 0.3, NAN, NAN], "edit": [0.2, 0.2, 0.2, 0.2, 0.2], "tests": [0, 1, 0.5, 0, 1]}
STEPS = batch_of([0] * 5, scores=SCORES)


def test_gated_sum_adds_steps_where_the_outcome_is_good_enough():
    """Sample 3 lacks a step reward it does not need; sample 4 lacks one it needs."""
    options = {"components": ["search", "edit"], "delta": 0.5}
    same(shape("gated_sum", [0, 1, 0.5, 0, 1], STEPS, **options), [0, 1.5, 1, 0, NAN])
    same(shape("gated_sum", [2, 2, NAN, 2, 2], STEPS, **options, outcome="tests"), [2, 2.5, NAN, 2, NAN])


def test_ungated_sum_always_adds_them():
    got = shape("gated_sum", [0, 1, 0.5, 0, 1], STEPS, components=["search", "edit"], ungated=True)
    same(got, [0.5, 1.5, 1, NAN, NAN])


def test_gated_takes_one_branch():
    scores = {"runs": [1, 0, 1, NAN], "iou": [0.5, NAN, 0.8, 1], "clean": [0.5, 1, 0.5, 1], "base": [9, -1, 9, 9]}
    batch = batch_of([0] * 4, scores=scores)
    both = {"condition": "runs", "then": ["iou", "clean"]}
    same(shape("gated", [0, 0, 0, 0], batch, **both), [0.25, 0, 0.4, NAN])
    same(shape("gated", [0, 0, NAN, 0], batch, **both, combine="sum", otherwise=["base"]), [1, -1, NAN, NAN])
    same(shape("gated", [3, 3, 3, 3], batch, condition="runs", otherwise=-2.0), [3, -2, 3, NAN])


@every("name, options", [("gated_sum", {"components": []}), ("gated", {"condition": "x", "then": []})])
def test_a_branch_without_rewards_is_refused(name, options):
    with pytest.raises(ValueError, match="name at least one"):
        shape(name, [1], batch_of([0], scores={"x": [1]}), **options)


@every("step, expected", [(0, 0.2), (9, 0.2), (10, 0.6), (500, 0.6)])
def test_staged_composition_by_step(step, expected):
    batch = batch_of([0, 0], scores={"form": [0.2, 1], "math": [0.5, 1]}, step=step)
    options = {"boundaries": [10], "weights": [{"form": 1.0}, {"form": 0.5, "math": 1.0}]}
    same(shape("staged", [0, NAN], batch, **options), [expected, NAN])


def test_a_reward_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no reward 'process'.*tests"):
        shape("gated_sum", [1] * 5, STEPS)


def test_selective_takes_off_penalties():
    columns = {"miss": [1, 0, 0, 1], "over": [0, 1, 0, 0], "malformed": [0, 0, 1, 1]}
    got = shape("selective", [1, 1, 1, NAN], batch_of([0] * 4, columns=columns), miss=0.1, over=0.4, malformed=2.0)
    same(got, [0.9, 0.6, -1, NAN])


# ------------------------------------------------------------------ rounds


def test_round_discount_leaves_the_last_round_alone():
    columns = {"round": [1, 2, 3, 1], "rounds": [3, 3, 3, 1]}
    same(shape("round_discount", [8, 8, 8, -1], batch_of([0] * 4, columns=columns), gamma=0.5), [2, 4, 8, -1])


@every("now", [0.0, 4.0, NAN])
def test_a_round_outside_its_episode_is_refused(now):
    with pytest.raises(ValueError, match="from 1 to `rounds`"):
        shape("round_discount", [1], batch_of([0], columns={"round": [now], "rounds": [3.0]}))


# ------------------------------------------------------------------ noisy verifiers

rates = st.floats(0, 0.45)


@given(rates, rates, st.booleans())
def test_backward_correction_is_right_in_expectation(rho0, rho1, right):
    """A right answer passes with probability 1 - rho1, a wrong one with rho0."""
    failed, passed = shape("noise_backward", [0, 1], batch_of([0, 0]), rho0=rho0, rho1=rho1)
    p = 1 - rho1 if right else rho0
    assert p * passed + (1 - p) * failed == pytest.approx(float(right), abs=1e-9)


@given(rates, rates, st.booleans())
def test_forward_correction_scales_the_clean_gradient(rho0, rho1, right):
    """Its expectation is (1 - rho0 - rho1) (R - 1): a baseline of 1, which no gradient sees."""
    failed, passed = shape("noise_forward", [0, 1], batch_of([0, 0]), rho1=rho1)
    p = 1 - rho1 if right else rho0
    assert p * passed + (1 - p) * failed == pytest.approx((1 - rho0 - rho1) * (right - 1), abs=1e-12)


def test_rates_may_be_columns():
    batch = batch_of([0, 0, 0], columns={"fp": [0.1, 0.2, 0.0], "fn": [0.4, 0.3, 0.0]})
    same(shape("noise_backward", [1, 0, NAN], batch, rho0="fp", rho1="fn"), [0.9 / 0.5, -0.2 / 0.5, NAN])
    same(shape("noise_forward", [1, 0, 1], batch, rho1="fn"), [0.4, -0.7, 0])


@every("name, options", [("noise_backward", {"rho0": 0.1, "rho1": 0.3}), ("noise_forward", {"rho1": 0.3})])
def test_constant_rates_change_nothing_under_group_normalisation(name, options):
    scores, ok = f64(0, 1, 1, 0, 1, 0)[:, None], torch.ones(6, 1, dtype=torch.bool)
    batch = batch_of([0, 0, 0, 1, 1, 1])
    plain, corrected = (
        estimate(scores, ok, torch.ones(1), batch, Algorithm(std_eps=0))[0].tolist(),
        normalised_after(name, options, scores[:, 0], ok, batch),
    )
    same(corrected, plain)
    assert max(plain) > 0.5


def normalised_after(name, options, reward, ok, batch):
    shaped = SHAPERS.bind(Hook(name, options))(reward, batch)
    return estimate(shaped[:, None], ok, torch.ones(1), batch, Algorithm(std_eps=0))[0].tolist()


def test_noise_corrections_refuse_what_they_cannot_correct():
    with pytest.raises(ValueError, match="verifier of 0 or 1"):
        shape("noise_forward", [0.5], batch_of([0]), rho1=0.1)
    with pytest.raises(ValueError, match=r"rho0=0\.5.*below 0\.5"):
        shape("noise_backward", [1], batch_of([0]), rho0=0.5, rho1=0.1)
    with pytest.raises(ValueError, match=r"column 'fn'.*below 0\.5"):
        shape("noise_forward", [1, 1], batch_of([0, 0], columns={"fn": [0.1, 0.6]}), rho1="fn")


# ------------------------------------------------------------------ agreement


def test_majority_vote():
    """Group 0 votes 7, 7, 3 (a failed sample's 3 does not count); group 1 ties, so the smaller id wins."""
    columns = {"vote": [7, 7, 3, 3, 5, 2, -1]}
    got = shape("majority_vote", [0, 0, 0, NAN, 0, 0, 0], batch_of([0, 0, 0, 0, 1, 1, 1], columns=columns))
    same(got, [1, 1, 0, NAN, 0, 1, 0])


def test_co_reward_judges_by_the_other_side():
    """Record 50 (three samples) answers mostly 7, its paraphrase 40 (two) mostly 3; 90 is its own pair."""
    ids, pairs = [50, 50, 50, 40, 40, 90], [40, 40, 40, 50, 50, 90]
    columns = {"vote": [7, 7, 3, 3, 3, 4], "id": ids, "pair": pairs}
    got = shape("co_reward", [0, 0, 0, 0, 0, 0], batch_of([0, 0, 0, 1, 1, 2], columns=columns))
    same(got, [0, 0, 1, 0, 0, 1])


def test_without_any_answer_there_is_no_label_and_no_reward():
    columns = {"vote": [5.0, 5.0, NAN, -1.0], "id": [8, 8, 9, 9], "pair": [9, 9, 8, 8]}
    got = shape("co_reward", [0, 0, 0, 0], batch_of([0, 0, 1, 1], columns=columns))
    same(got, [NAN, NAN, 0, 0])


@every("pair", [1, 0, -1, NAN])
def test_a_pair_outside_the_step_is_refused(pair):
    """Record 7 alone is in the step, as its group 0: 0 and 1 are places, and no ids."""
    with pytest.raises(ValueError, match="the id of a record in the same step"):
        shape("co_reward", [0], batch_of([0], columns={"vote": [1], "id": [7], "pair": [pair]}))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_majority_does_not_depend_on_the_order_of_the_samples(answers, random):
    mixed = random.sample(answers, len(answers))
    first, second = (
        shape("majority_vote", [0] * len(x), batch_of([0] * len(x), columns={"vote": x})) for x in (answers, mixed)
    )
    chosen = {a for a, r in zip(answers, first) if r == 1}
    assert chosen == {a for a, r in zip(mixed, second) if r == 1}
    counts = {a: answers.count(a) for a in answers}
    assert chosen == {min(a for a in counts if counts[a] == max(counts.values()))}


def test_plan_value_adds_the_mean_of_the_same_plan():
    """Plan 0 of group 0 (mean .5) is not plan 0 of group 1 (mean 1); -1 is no plan; a failed sample does not count."""
    columns = {"plan": [0, 0, 4, -1, 0, 0]}
    batch = batch_of([0, 0, 0, 0, 1, 1], columns=columns)
    same(shape("plan_value", [1, 0, 1, 1, 1, NAN], batch, weight=0.5), [1.25, 0.25, 1.5, 1, 1.5, NAN])


def test_plan_value_of_a_named_outcome():
    batch = batch_of([0, 0, 0], scores={"right": [1, 0, NAN]}, columns={"plan": [3, 3, 3]})
    same(shape("plan_value", [2, 2, 2], batch, outcome="right"), [2.5, 2.5, NAN])


def test_bmas_by_hand():
    """x's tokens find 1 and 0.6 in y; y's only token finds 1 in x: (0.8 + 1) / 2. Lengths of vectors do not matter."""
    x, y = torch.tensor([[2.0, 0.0], [3.0, 4.0]]), torch.tensor([[5.0, 0.0]])
    assert bmas(x, y).item() == pytest.approx(0.9)
    assert bmas(y, x).item() == pytest.approx(0.9)
    assert bmas(x, x.flip(0)).item() == pytest.approx(1)
    assert bmas(y, -y).item() == pytest.approx(-1)


@every("x, y", [((0, 2), (3, 2)), ((2, 2), (2, 3)), ((2,), (2, 2))])
def test_bmas_refuses_what_has_no_tokens_or_other_widths(x, y):
    with pytest.raises(ValueError, match="bmas: needs"):
        bmas(torch.ones(x), torch.ones(y))


# ------------------------------------------------------------------ all of them

ALL = {
    "soft_overlong": {"limit": 40, "buffer": 30},
    "length_lambda": {"top": 0.5},
    "gated_sum": {"components": ["a", "b"], "outcome": "b"},
    "gated": {"condition": "a", "then": ["b"], "otherwise": ["a", "b"]},
    "staged": {"boundaries": [], "weights": [{"a": 1.0, "b": 0.5}]},
    "selective": {},
    "round_discount": {},
    "noise_backward": {"rho0": 0.1, "rho1": "rate"},
    "noise_forward": {"rho1": "rate"},
    "majority_vote": {},
    "co_reward": {},
    "plan_value": {},
}


def anything():
    n, generator = 16, torch.Generator().manual_seed(3)

    def ints(high):
        return torch.randint(high, (n,), generator=generator)

    group = torch.arange(n) // 4
    batch = Batch(
        group,
        4,
        torch.ones(n, 1, dtype=torch.bool),
        length=ints(50) + 1,
        scores={"a": ints(2).double(), "b": ints(3).double() / 2},
        columns={
            **{name: ints(2) for name in ("miss", "over", "malformed")},
            "round": ints(3) + 1,
            "rounds": ints(3) + 3,
            "rate": ints(4).double() / 10,
            "vote": ints(3),
            "id": 100 + group,
            "pair": 100 + (group ^ 1),
            "plan": ints(2),
        },
    )
    reward = ints(2).double()
    reward[[2, 5, 9]] = torch.nan
    return reward, batch


def test_the_table_is_complete():
    assert set(ALL) == set(SHAPERS)


@every("name", ALL)
def test_samples_without_a_reward_keep_none_and_change_nothing(name):
    """Without the invalid rows the others get the same; and the incoming reward is left as it is."""
    reward, batch = anything()
    before = reward.clone()
    got = SHAPERS.bind(Hook(name, ALL[name]))(reward, batch)
    assert torch.equal(reward.nan_to_num(-9), before.nan_to_num(-9))
    assert got.dtype == torch.float64
    rows = torch.nonzero(reward.isfinite()).flatten()
    assert got[reward.isnan()].isnan().all()
    alone = SHAPERS.bind(Hook(name, ALL[name]))(reward[rows], batch.at(rows, torch.tensor([0])))
    assert torch.equal(alone, got[rows])
    assert not torch.equal(got[rows], reward[rows])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cut", [0, 4, 10])
def test_two_ranks_equal_one(name, cut, ranks):
    """Cut at a group's border, inside a group, and with nothing at all on one rank."""
    reward, batch = anything()

    def work(rank, reduce):
        rows = torch.arange(16)[[slice(0, cut), slice(cut, 16)][rank]]
        part = replace(batch.at(rows, torch.tensor([0])), reduce=reduce)
        return SHAPERS.bind(Hook(name, ALL[name]))(reward[rows], part)

    whole = SHAPERS.bind(Hook(name, ALL[name]))(reward, batch)
    assert torch.allclose(torch.cat(ranks(work)), whole, atol=1e-12, rtol=0, equal_nan=True)
