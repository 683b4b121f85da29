"""Losses on scores against tables worked by hand, what swapping and shifting do to them, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core import pairwise

LN2 = math.log(2)


def cost(x: float) -> float:
    """-log sigmoid(x), OpenRLHF's `logexp`."""
    return math.log1p(math.exp(-x))


def table(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def uncertain(scores, shares, present=None, margin=0.0):
    return pairwise.uncertain(scores, 0.3 * scores.detach().sin(), shares, present, margin)


# By shares: what each comes to is a model of the preference.
BY_SHARES = {
    "bradley_terry": pairwise.bradley_terry,
    "with_ties": pairwise.with_ties,
    "plackett_luce": pairwise.plackett_luce,
    "uncertain": uncertain,
}
finite = st.floats(-8, 8)


@every(
    ("scores", "shares", "margin", "expected"),
    [
        ([2.0, 0.5], [1.0, 0.0], 0.0, cost(1.5)),
        ([2.0, 0.5], [0.0, 1.0], 0.0, cost(-1.5)),
        ([0.7, 0.7], [1.0, 0.0], 0.0, LN2),
        ([2.0, 0.5], [1.0, 0.0], 0.57, cost(1.5 - 0.57)),
        ([2.0, 0.5], [0.5, 0.5], 0.0, 0.5 * cost(1.5) + 0.5 * cost(-1.5)),
        ([2.0, 0.5], [0.7, 0.3], 0.2, 0.7 * cost(1.3) + 0.3 * cost(-1.7)),
    ],
)
@every("name", ["bradley_terry", "plackett_luce"])
def test_bradley_terry_by_hand(name, scores, shares, margin, expected):
    loss = BY_SHARES[name](table(scores), table(shares), margin=margin)
    assert loss.tolist() == pytest.approx([expected])


def test_ties_by_hand():
    loss = pairwise.with_ties(table([2.0, 0.5], [2.0, 0.5], [1.0, 1.0]), table([1, 0], [0.5, 0.5], [0.5, 0.5]), k=5.0)
    edge = math.log(5)
    tie = cost(1.5 - edge) + cost(-1.5 - edge) - math.log(24)
    # Of equal scores: sigmoid(-ln 5) = 1/6, so that a tie has 24/36, and each win 1/6.
    assert loss.tolist() == pytest.approx([cost(1.5 - edge), tie, -math.log(24 / 36)])


@given(finite, finite, st.floats(1.01, 20))
def test_two_wins_and_a_tie_are_all_that_can_happen(first, second, k):
    scores = table([first, second]).expand(3, 2)
    losses = pairwise.with_ties(scores, table([1, 0], [0, 1], [0.5, 0.5]), k=k)
    assert float((-losses).exp().sum()) == pytest.approx(1)


def test_no_tie_can_happen_at_one():
    with pytest.raises(ValueError, match="k=1"):
        pairwise.with_ties(table([1, 0]), table([1, 0]), k=1)
    near = pairwise.with_ties(table([2.0, 0.5]), table([1, 0]), k=1 + 1e-9)
    assert near.tolist() == pytest.approx([cost(1.5)], abs=1e-6)


@pytest.mark.parametrize("name", sorted(BY_SHARES))
@given(st.lists(finite, min_size=2, max_size=2), st.floats(0, 1), st.floats(0, 2))
def test_swapping_the_pair_changes_nothing_and_negates_the_gradient(name, pair, share, margin):
    shares = table([share, 1 - share], [1 - share, share])
    scores = table(pair, pair[::-1]).requires_grad_(True)
    loss = BY_SHARES[name](scores, shares, margin=margin)
    assert float(loss[0].detach()) == pytest.approx(float(loss[1].detach()))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient[0].tolist() == pytest.approx(gradient[1].flip(0).tolist(), abs=1e-12)
    assert float(gradient[0].sum()) == pytest.approx(0, abs=1e-12)  # of a difference only


@every("name", sorted(BY_SHARES))
def test_a_common_shift_of_the_scores_changes_nothing(name):
    scores, shares = table([1.0, -0.5, 2.0], [0.2, 0.1, 0.0]), table([0.5, 0.5, 0], [0, 0.2, 0.8])
    spread = table([0.1, 0.2, -0.3], [0.0, 0.4, 0.2])
    loss = pairwise.uncertain if name == "uncertain" else lambda s, _, w: BY_SHARES[name](s, w)
    assert loss(scores + 3, spread, shares).tolist() == pytest.approx(loss(scores, spread, shares).tolist())


def test_of_more_candidates_every_two_that_tell_something_count_alike():
    # Shares (.5, .5, 0, 0): a tie of the first two, four wins, and the last two tell nothing: five comparisons.
    r = [1.0, 0.0, -1.0, 0.5]
    wins = [cost(r[i] - r[j]) for i in (0, 1) for j in (2, 3)]
    expected = (0.5 * cost(1) + 0.5 * cost(-1) + sum(wins)) / 5
    assert pairwise.bradley_terry(table(r), table([0.5, 0.5, 0, 0])).tolist() == pytest.approx([expected])


def test_plackett_luce_is_the_chance_to_be_chosen_first():
    r = [1.0, 0.0, -1.0]
    whole = sum(map(math.exp, r))
    found = pairwise.plackett_luce(table(r, r), table([1, 0, 0], [0.25, 0.75, 0]))
    assert found.tolist() == pytest.approx(
        [math.log(whole) - 1.0, 0.25 * (math.log(whole) - 1) + 0.75 * math.log(whole)]
    )
    lowered = math.exp(0.5) + math.exp(0.0) + math.exp(-1.0)
    margin = pairwise.plackett_luce(table(r), table([1, 0, 0]), margin=torch.tensor([0.5], dtype=torch.float64))
    assert margin.tolist() == pytest.approx([math.log(lowered) - 0.5])


@every("name", [*sorted(BY_SHARES), "squared_error", "cross_entropy", "centring"])
def test_candidates_that_are_not_there_change_nothing(name):
    """Padded records of two candidates are what they are alone, in value and in gradient."""
    scores = table([1.0, -0.5, 7.0, -7.0], [0.2, 0.4, 0.0, 3.0]).requires_grad_(True)
    shares = table([0.75, 0.25, 0, 0], [0, 1, 0, 0])
    present = torch.tensor([[True, True, False, False]] * 2)
    function = BY_SHARES.get(name) or getattr(pairwise, name)
    args = () if name == "centring" else (shares,)
    loss = function(scores, *args, present)
    short = [a[:, :2] for a in args]
    assert loss.tolist() == pytest.approx(function(scores[:, :2], *short).tolist())
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient[:, 2:].abs().max() == 0
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", [*sorted(BY_SHARES), "squared_error", "cross_entropy", "centring"])
def test_gradients_are_those_of_the_function(name):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_(True)
    shares = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5], [0, 1, 0]], dtype=torch.float64)
    present = torch.tensor([[True] * 3] * 3 + [[True, True, False]])
    spread = (0.3 * torch.randn(4, 3, generator=generator, dtype=torch.float64)).requires_grad_(True)
    if name == "uncertain":
        assert torch.autograd.gradcheck(lambda s, u: pairwise.uncertain(s, u, shares, present, 0.3), (scores, spread))
        return
    function = BY_SHARES.get(name) or getattr(pairwise, name)
    args = () if name == "centring" else (shares,)
    assert torch.autograd.gradcheck(lambda s: function(s, *args, present), (scores,))


# -------------------------------------------------------------------- uncertainty


@every("std", [0.01, 0.3, 1.0, 3.0, 10.0])
@every("mean", [-4.0, 0.0, 1.5])
def test_the_expectation_is_that_of_a_fine_sum(mean, std):
    z = torch.linspace(mean - 10 * std, mean + 10 * std, 200_001, dtype=torch.float64)
    density = (-0.5 * ((z - mean) / std) ** 2).exp()
    expected = float((torch.nn.functional.softplus(-z) * density).sum() / density.sum())
    found = float(pairwise.expected_cost(table([mean]), table([std])))
    assert found == pytest.approx(expected, rel=1e-8 if std <= 3 else 1e-5)


def test_the_released_draws_scatter_around_it():
    """HPSv3 takes a mean over 1000 draws: of another seed it is another number, and this one is in their middle."""
    mean, log_std = table([1.0, 0.0]), table([0.2, -0.1])
    exact = float(pairwise.uncertain(mean, log_std, table([1, 0])))
    std = math.sqrt(math.exp(0.4) + math.exp(-0.2))
    draws = 1.0 + std * torch.randn(200, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    costs = torch.nn.functional.softplus(-draws)
    means = costs.mean(1)
    assert float(means.std()) == pytest.approx(float(costs.std()) / math.sqrt(1000), rel=0.2)
    assert abs(float(means.mean()) - exact) < 4 * float(means.std()) / math.sqrt(200)


def test_without_uncertainty_it_is_bradley_terry():
    scores, shares = table([1.0, -0.5]), table([0.8, 0.2])
    found = pairwise.uncertain(scores, torch.full_like(scores, -20.0), shares, margin=0.1)
    assert found.tolist() == pytest.approx(pairwise.bradley_terry(scores, shares, margin=0.1).tolist(), abs=1e-8)


def test_uncertainty_of_either_candidate_makes_a_clear_pair_cost_more():
    shares = table([1, 0])
    sure, unsure = (float(pairwise.uncertain(table([3.0, 0.0]), table(s), shares)) for s in ([-2.0, -2.0], [-2.0, 1.0]))
    assert unsure > sure


# -------------------------------------------------------------------- other terms


def test_centring_by_hand():
    assert pairwise.centring(table([1.5, -0.5], [2.0, 2.0])).tolist() == pytest.approx([1.0, 16.0])
    assert pairwise.centring(table([3.0, 0.0, -3.0])).tolist() == [0.0]


@every("coefficient", [1e-3, 1e-6])
def test_a_coefficient_that_vanishes_leaves_bradley_terry(coefficient):
    scores, shares = table([2.0, 0.5]), table([1, 0])
    plain = float(pairwise.bradley_terry(scores, shares))
    assert float(pairwise.bradley_terry(scores, shares, margin=coefficient)) == pytest.approx(plain, abs=coefficient)
    centred = plain + coefficient * float(pairwise.centring(scores))
    assert centred == pytest.approx(plain, abs=7 * coefficient)


def test_regression_by_hand():
    scores, values = table([1.0, -1.0]), table([0.0, 1.0])
    assert pairwise.squared_error(scores, values).tolist() == [2.5]
    assert pairwise.cross_entropy(scores, values).tolist() == pytest.approx([cost(-1.0)])
    assert pairwise.cross_entropy(table([0.4]), table([0.25])).tolist() == pytest.approx(
        [0.25 * cost(0.4) + 0.75 * cost(-0.4)]
    )


def test_outcomes_by_hand():
    scores = table([2.0, 0.5], [2.0, 0.5], [1.0, 1.0], [2.0, 0.5])
    accuracy, margin, decided = pairwise.outcome(scores, table([1, 0], [0.2, 0.8], [1, 0], [0.5, 0.5]))
    assert accuracy.tolist() == [1.0, 0.0, 0.5, 0.0]
    assert margin.tolist() == [1.5, -1.5, 0.0, 0.0]
    assert decided.tolist() == [True, True, True, False]
    four, _, _ = pairwise.outcome(table([1.0, 0.0, -1.0, 0.5]), table([0.5, 0.5, 0, 0]))
    assert four.tolist() == [0.75]  # of four comparisons the second right answer loses one


@given(st.lists(finite, min_size=3, max_size=3), st.floats(0.1, 5), st.floats(-5, 5))
def test_accuracy_is_that_of_any_rising_line_through_the_scores(scores, slope, shift):
    shares = table([0.6, 0.3, 0.1])
    rounded = table([round(s, 3) for s in scores])
    moved = pairwise.outcome(slope * rounded + shift, shares)[0]
    ties = len(set(rounded[0].tolist())) < 3
    if not ties:
        assert moved.tolist() == pairwise.outcome(rounded, shares)[0].tolist()
