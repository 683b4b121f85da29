"""Bradley-Terry against closed forms, its intervals against simulation, and which samples a schedule compares."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.rewarding.schedule import regular, round_robin
from mmrl.rewarding.strength import bootstrapped, bradley_terry, components, elo, wins_of


def expit(x):
    return 1 / (1 + np.exp(-x))


@every(("won", "lost"), [(3, 1), (1, 1), (0.5, 7.5), (40, 10)])
def test_two_players_without_a_prior_have_the_log_odds_and_its_variance(won, lost):
    fit = bradley_terry([[0, won], [lost, 0]], prior=0.0)
    assert fit.values == pytest.approx([0.5 * math.log(won / lost), -0.5 * math.log(won / lost)], abs=1e-8)
    # Var of the difference is 1 / (n p q) = 1/won + 1/lost; each strength is half the difference.
    half = 1.959963985 * 0.5 * math.sqrt(1 / won + 1 / lost)
    assert fit.high[0] - fit.values[0] == pytest.approx(half, rel=1e-6)
    assert fit.values[1] - fit.low[1] == pytest.approx(half, rel=1e-6)


@every(("won", "lost"), [(3, 1), (0.5, 7.5)])
def test_against_a_player_of_strength_0_the_interval_is_that_of_the_difference(won, lost):
    fit = bradley_terry([[0, won], [lost, 0]], prior=0.0, zero=[1])
    assert fit.values == pytest.approx([math.log(won / lost), 0.0], abs=1e-8)
    assert fit.high[0] - fit.values[0] == pytest.approx(1.959963985 * math.sqrt(1 / won + 1 / lost), rel=1e-6)
    assert (fit.low[1], fit.high[1]) == pytest.approx((0.0, 0.0), abs=1e-6)
    # Where none of them is among the connected ones, the mean of all is 0.
    apart = bradley_terry([[0, won, 0], [lost, 0, 0], [0, 0, 0]], prior=0.0, zero=[2])
    assert apart == bradley_terry([[0, won, 0], [lost, 0, 0], [0, 0, 0]], prior=0.0)


def test_a_win_in_one_game_against_a_tie_of_each_with_nobody():
    # With x = e^s: 1 - sigmoid(2 s) = sigmoid(s) - 1/2 is x^3 - x^2 - x - 3 = 0.
    [x] = [r.real for r in np.roots([1, -1, -1, -3]) if abs(r.imag) < 1e-9]
    assert bradley_terry([[0, 1], [0, 0]], prior=1.0).values == pytest.approx([math.log(x), -math.log(x)], abs=1e-7)


def test_what_a_model_expects_gives_the_model():
    true = np.array([1.5, 0.2, -0.4, -1.3])
    games = np.array([[0, 3, 1, 2], [3, 0, 5, 0], [1, 5, 0, 4], [2, 0, 4, 0]])
    fit = bradley_terry(games * expit(true[:, None] - true[None, :]), prior=0.0)
    assert fit.values == pytest.approx(true.tolist(), abs=1e-6)


def test_the_diagonal_does_not_count_and_an_undefeated_player_needs_a_prior():
    assert bradley_terry([[9, 3], [1, 4]], prior=0.0) == bradley_terry([[0, 3], [1, 0]], prior=0.0)
    with pytest.raises(ValueError, match="never lost"):
        bradley_terry([[0, 2, 2], [0, 0, 1], [0, 1, 0]], prior=0.0)
    values = bradley_terry([[0, 2, 2], [0, 0, 1], [0, 1, 0]]).values
    assert values[0] > 0 > values[1] == pytest.approx(values[2])
    assert bradley_terry([[0, 2], [0, 0]], prior=0.01).values[0] > bradley_terry([[0, 2], [0, 0]]).values[0]


matrices = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=n, max_size=n)
)


@settings(deadline=None, max_examples=40)
@given(matrices, st.randoms(use_true_random=False))
def test_names_do_not_matter_and_turning_results_round_turns_strengths_round(wins, random):
    wins = np.array(wins)
    fit = bradley_terry(wins)
    order = random.sample(range(len(wins)), len(wins))
    again = bradley_terry(wins[np.ix_(order, order)])
    turned = bradley_terry(wins.T)
    for place, i in enumerate(order):
        if fit.values[i] is None:
            assert again.values[place] is turned.values[i] is None
            continue
        assert again.values[place] == pytest.approx(fit.values[i], abs=1e-5)
        assert turned.values[i] == pytest.approx(-fit.values[i], abs=1e-5)
        assert fit.low[i] < fit.values[i] < fit.high[i]


def test_components_have_scales_of_their_own_and_who_was_never_compared_has_no_strength():
    # 0 and 2 met, 1 and 4 met, 3 met nobody.
    wins = wins_of([(0, 2, 1.0), (0, 2, 1.0), (2, 0, 1.0), (1, 4, 0.5)], 5)
    assert components(wins) == [0, 1, 0, 2, 1]
    fit = bradley_terry(wins)
    assert fit.component == (0, 1, 0, 2, 1)
    assert fit.values[3] is fit.low[3] is fit.high[3] is None
    assert fit.values[1] == pytest.approx(0) == fit.values[4]
    assert fit.values[0] == pytest.approx(-fit.values[2]) and fit.values[0] > 0


def test_elo_is_400_points_for_odds_of_ten():
    assert elo(0.0) == 1000
    assert elo(math.log(10), base=1500) == pytest.approx(1900)


@every("wins", [[[0, 1]], [[0, float("nan")], [1, 0]], [[0, -1], [1, 0]]])
def test_what_is_no_table_of_wins_is_refused(wins):
    with pytest.raises(ValueError, match="expected a square"):
        bradley_terry(wins)


def simulated(random, true, games):
    """Outcomes of `games` between each two."""
    pairs = round_robin(len(true)) * games
    return [(i, j, float(random.random() < expit(true[i] - true[j]))) for i, j in pairs]


def test_intervals_hold_the_truth_as_often_as_they_say():
    random, true = np.random.default_rng(0), np.array([0.9, 0.4, 0.0, -0.3, -1.0])
    held = []
    for _ in range(200):
        fit = bradley_terry(wins_of(simulated(random, true, 12), 5), prior=0.1)
        held += [low <= t <= high for low, t, high in zip(fit.low, true, fit.high)]
    assert 0.92 <= np.mean(held) <= 0.98  # 1000 intervals: two sided 4 sigma of 0.95, if they were independent


def test_intervals_of_a_distance_from_anchors_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(1)
    true, games, held = np.array([0.8, -0.3, 0.2, -0.7]), 40, 0
    for _ in range(200):
        wins = np.zeros((4, 4))
        for i, j in ((0, 2), (0, 3), (1, 2), (1, 3)):  # two samples, two anchors
            wins[i, j] = random.binomial(games, expit(true[i] - true[j]))
            wins[j, i] = games - wins[i, j]
        fit = bradley_terry(wins, prior=1e-6, zero=[2, 3])
        held += fit.low[0] <= true[0] - true[2:].mean() <= fit.high[0]
    assert 0.90 <= held / 200 <= 0.99


def test_the_bootstrap_says_about_the_same_as_the_information():
    outcomes = simulated(np.random.default_rng(1), np.array([0.8, 0.0, -0.8]), 60)
    exact, drawn = bradley_terry(wins_of(outcomes, 3)), bootstrapped(outcomes, 3, draws=150)
    assert drawn.values == exact.values
    for i in range(3):
        assert drawn.high[i] - drawn.low[i] == pytest.approx(exact.high[i] - exact.low[i], rel=0.3)
    assert bootstrapped(outcomes, 3, draws=20, seed=3) == bootstrapped(outcomes, 3, draws=20, seed=3)
    assert bootstrapped(outcomes, 3, draws=20, seed=3).low != bootstrapped(outcomes, 3, draws=20, seed=4).low


# -------------------------------------------------------------------- schedules


@every("count", range(2, 13))
@every("neighbours", range(2, 8))
def test_a_regular_schedule_is_connected_and_asks_each_as_often(count, neighbours):
    for seed in range(5):
        pairs = regular(count, neighbours, seed)
        assert len({frozenset(pair) for pair in pairs}) == len(pairs), "a pair is asked twice"
        met = Counter(i for pair in pairs for i in pair)
        wanted = min(neighbours, count - 1)
        odd = wanted * count % 2
        assert sorted(met.values()) == [wanted] * (count - odd) + [wanted + 1] * odd
        assert set(components(wins_of([(i, j, 0.5) for i, j in pairs], count))) == {0}
        if wanted % 2 == 0:
            assert Counter(i for i, _ in pairs) == Counter(j for _, j in pairs), "a place is not shared evenly"


def test_a_regular_schedule_is_drawn_by_its_seed():
    assert regular(9, 4, 1) == regular(9, 4, 1)
    assert len({tuple(regular(9, 4, seed)) for seed in range(10)}) == 10
    assert regular(1, 4, 0) == []
    with pytest.raises(ValueError, match="2 or more"):
        regular(9, 1, 0)
