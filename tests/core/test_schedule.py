"""Schedules against hand numbers, and their shapes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.registry import Hook
from mmrl.core.schedule import SCHEDULES, check_stages, ead, stage_weights


def at(name, when, /, **options):
    return [SCHEDULES.bind(Hook(name, options))(step) for step in when]


def test_constant():
    assert at("constant", [0, 7, 10**9], value=3) == [3, 3, 3]


def test_linear():
    assert at("linear", [0, 1, 2, 4, 5], start=1.0, end=0.0, steps=4) == [1, 0.75, 0.5, 0, 0]


def test_cosine():
    """A quarter of the way is cos 45 degrees."""
    expected = [2, 1 + math.sqrt(0.5), 1, 0, 0]
    assert at("cosine", [0, 1, 2, 4, 9], start=2.0, end=0.0, steps=4) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@given(st.integers(0, 100), st.integers(0, 100), st.floats(-5, 5), st.integers(1, 50))
def test_they_move_one_way_and_stay_between(name, a, b, end, steps):
    first, second = at(name, sorted([a, b]), start=1.0, end=end, steps=steps)
    assert (second - first) * (end - 1) >= -1e-12
    assert min(1, end) - 1e-9 <= first <= max(1, end) + 1e-9


def test_chord_mu_rises_then_falls_to_its_valley():
    got = at("chord_mu", [0, 2, 4, 9, 14, 99], warmup=4, decay=10, peak=0.5, valley=0.1)
    assert got == pytest.approx([0, 0.25, 0.5, 0.3, 0.1, 0.1])
    assert at("chord_mu", [0, 1, 1000]) == pytest.approx([0.1, 0.1, 0.1])


def test_turns_of_babyai():
    assert at("turns", [0, 99, 100, 199, 200, 5000], rounds=[6, 13, 20]) == [6, 6, 13, 13, 20, 20]
    assert at("turns", [79, 80, 160], rounds=[8, 12, 15], every=80) == [8, 12, 15]


@pytest.mark.parametrize("rounds", [[], [0, 3]])
def test_turns_refuses_what_allows_no_turn(rounds):
    with pytest.raises(ValueError, match="at least one number, each 1 or more"):
        at("turns", [0], rounds=rounds)


# ------------------------------------------------------------------ annealed decoding


def test_ead_by_hand():
    """At step 0 both forms decay over 500 tokens; exp(t/500) = 2 at t = 346.57 and 2.1 at 370.97."""
    for form in ("paper", "released"):
        tau = ead(0, 1000, form=form)
        assert tau[:10] == (1.0,) * 10
        assert tau[10] == pytest.approx(2.2 - math.exp(0.02))
        assert tau[346] > 0.2 > tau[347]
        assert tau[370] > 0.1
        assert set(tau[371:]) == {0.1}


def test_ead_forms_differ_in_how_fast_the_decay_grows():
    """At step 100: 500 + 5 * 100 = 1000, and 20 * (25 + 5 * 100) = 10500."""
    assert ead(100, 200)[199] == pytest.approx(2.2 - math.exp(0.199))
    assert ead(100, 200, form="released")[199] == pytest.approx(2.2 - math.exp(199 / 10500))


def test_ead_stops_growing_at_its_limit():
    assert ead(10**6, 50) == ead(7900, 50)
    assert ead(7900, 50) != ead(7899, 50)


@given(st.integers(0, 5000), st.integers(0, 60), st.floats(0.05, 1.0), st.floats(1.0, 2.0))
def test_ead_falls_between_its_bounds(step, first, tau_min, tau_max):
    tau = ead(step, 80, first=first, tau_min=tau_min, tau_max=tau_max, start=5.0)
    assert len(tau) == 80
    annealed = tau[first:]
    assert all(tau_min <= t <= tau_max + 1e-12 for t in annealed)
    assert list(annealed) == sorted(annealed, reverse=True)


def test_ead_of_a_very_long_answer_does_not_overflow():
    assert ead(0, 400_000)[-1] == 0.1


@pytest.mark.parametrize(
    "options, message",
    [({"form": "papre"}, "not known"), ({"tau_min": 1.5}, "tau_min"), ({"start": 0.0}, "start must be above 0")],
)
def test_ead_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ead(0, 5, **options)


# ------------------------------------------------------------------ stages


def test_stage_weights():
    stages = [{"a": 1.0}, {"b": 1.0}, {"c": 1.0}]
    found = [stage_weights(step, boundaries=[3, 5], weights=stages) for step in (0, 2, 3, 4, 5, 90)]
    assert found == [stages[i] for i in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize("boundaries", [[], [5, 3], [3, 3], [1, 2, 3]])
def test_check_stages_refuses_boundaries_that_do_not_fit(boundaries):
    with pytest.raises(ValueError, match="2 rising boundaries"):
        check_stages(boundaries=boundaries, weights=[{}, {}, {}])
