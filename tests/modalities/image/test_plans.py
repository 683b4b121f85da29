"""Step plans: the published defaults, the invariants, and what ranks and updates share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrl.modalities.image.plans import PLANS, StepPlan, make_plan

# ---- the published defaults -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_steps", "trained"),
    [
        ("full", 10, 9),  # Flow-GRPO: int(10 * .99)
        ("first_fraction", 10, 9),
        ("random_fraction", 16, 9),  # DanceGRPO FLUX: int(15 * .6)
        ("random_fraction", 25, 14),  # Pref-GRPO: int(24 * .6)
        ("random_window", 10, 2),  # Flow-GRPO-Fast
        ("sliding", 25, 4),  # MixGRPO
    ],
)
def test_number_of_trained_steps(name, n_steps, trained):
    assert len(make_plan(name, n_steps, step=0, seed=0).trained) == trained


def test_full_and_first_fraction_differ_in_what_is_stochastic():
    assert make_plan("full", 10, 0, 0, fraction=0.5) == StepPlan(10, tuple(range(10)), (0, 1, 2, 3, 4))
    assert make_plan("first_fraction", 10, 0, 0, fraction=0.5) == StepPlan(10, (0, 1, 2, 3, 4), (0, 1, 2, 3, 4))


def test_a_product_that_is_whole_on_paper_loses_no_step():
    assert 0.29 * 100 < 29
    assert len(make_plan("full", 100, 0, 0, fraction=0.29).trained) == 29


def test_sliding_window_moves_after_every_updates_and_returns_to_the_start():
    windows = [make_plan("sliding", 8, step, seed=0, size=3, stride=2, every=5).trained for step in range(20)]
    assert windows[:5] == [(0, 1, 2)] * 5
    assert windows[5:10] == [(2, 3, 4)] * 5
    assert windows[10:15] == [(4, 5, 6)] * 5  # step 7 is the last and is not trained
    assert windows[15:] == [(0, 1, 2)] * 5
    assert make_plan("sliding", 25, 26, seed=0).stochastic == (1, 2, 3, 4)


def test_windows_that_stay_for_fewer_updates_by_hand():
    """9 trainable steps; 8 updates at start 0, least 2: int(8 - 6 * 3 / 9) = 6 at start 3, 4 at 6, then again."""
    linear = [make_plan("sliding_linear", 10, n, 0, size=3, stride=3, every=8).trained[0] for n in range(20)]
    assert linear == [0] * 8 + [3] * 6 + [6] * 4 + [0, 0]
    # 8 up to step 3, then ceil(8 e^-1.5) = 2 at 6.
    options = {"size": 3, "stride": 3, "every": 8, "after": 3, "rate": 0.5}
    starts = [make_plan("sliding_exponential", 10, n, 0, **options).trained[0] for n in range(20)]
    assert starts == [0] * 8 + [3] * 8 + [6] * 2 + [0, 0]


def test_without_decay_the_windows_are_those_of_sliding():
    for n in range(60):
        window = make_plan("sliding", 12, n, 0, size=3, every=4).trained
        assert make_plan("sliding_linear", 12, n, 0, size=3, every=4, least=4).trained == window
        assert make_plan("sliding_exponential", 12, n, 0, size=3, every=4, after=12).trained == window


def test_an_untrained_plan_stores_no_step():
    assert make_plan("untrained", 6, 0, 0) == StepPlan(6, (), ())
    assert make_plan("untrained", 6, 0, 0, stochastic=4) == StepPlan(6, (0, 1, 2, 3), ())


def test_window_start_covers_its_whole_range_and_nothing_else():
    starts = {make_plan("random_window", 10, step, 0, size=3, lo=1, hi=6).trained[0] for step in range(200)}
    assert starts == {1, 2, 3}
    starts = {make_plan("random_window", 6, step, 0).trained[0] for step in range(200)}
    assert starts == {0, 1, 2, 3}  # the last step, 5, stays out
    starts = {make_plan("random_window", 6, step, 0, allow_last=True).trained[0] for step in range(200)}
    assert starts == {0, 1, 2, 3, 4}


def test_explicit_steps():
    assert make_plan("explicit", 10, 0, 0, steps=[4, 1]) == StepPlan(10, (1, 4), (1, 4))
    chosen = {make_plan("explicit", 10, step, 0, steps=[1, 2, 3, 4], choose=2).trained for step in range(200)}
    assert chosen == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}


def test_random_fraction_reaches_every_step_but_the_last():
    reached = {i for step in range(100) for i in make_plan("random_fraction", 8, step, 0).trained}
    assert reached == set(range(7))
    assert make_plan("random_fraction", 8, 0, 0).stochastic == tuple(range(8))


# ---- invariants -----------------------------------------------------------------------------------------


OPTIONS = st.one_of(
    st.tuples(st.sampled_from(["full", "first_fraction"]), st.fixed_dictionaries({"fraction": st.floats(0.5, 0.9)})),
    st.tuples(st.just("random_fraction"), st.fixed_dictionaries({"fraction": st.floats(0.5, 1.0)})),
    st.tuples(st.just("random_window"), st.fixed_dictionaries({"size": st.integers(1, 3)})),
    st.tuples(st.just("explicit"), st.fixed_dictionaries({"steps": st.just([0, 2]), "choose": st.integers(1, 2)})),
    st.tuples(st.just("random_steps"), st.fixed_dictionaries({"count": st.integers(1, 3)})),
    st.tuples(
        st.sampled_from(["sliding", "sliding_linear", "sliding_exponential"]),
        st.fixed_dictionaries({"size": st.integers(1, 3), "stride": st.integers(1, 4), "every": st.integers(1, 30)}),
    ),
)


@given(choice=OPTIONS, n_steps=st.integers(4, 60), step=st.integers(0, 10_000), seed=st.integers(0, 2**40))
def test_every_plan_keeps_the_invariants_and_is_shared_by_all_ranks(choice, n_steps, step, seed):
    name, options = choice
    plan = make_plan(name, n_steps, step, seed, **options)
    assert plan == make_plan(name, n_steps, step, seed, **options)
    assert plan.trained
    assert set(plan.trained) <= set(plan.stochastic) <= set(range(n_steps))
    assert list(plan.trained) == sorted(set(plan.trained))
    assert list(plan.stochastic) == sorted(set(plan.stochastic))
    assert n_steps - 1 not in plan.trained


@given(step=st.integers(0, 10_000))
def test_all_windows_have_the_same_length(step):
    assert len(make_plan("sliding", 25, step, 0).trained) == 4


@pytest.mark.parametrize("name", ["random_fraction", "random_window"])
def test_random_plans_differ_by_step_and_by_seed(name):
    assert len({make_plan(name, 25, step, 0).trained for step in range(40)}) > 10
    assert len({make_plan(name, 25, 0, seed).trained for seed in range(40)}) > 10
    # Seed and step are kept apart: the stream of seed 1 is not the stream of seed 0, shifted.
    streams = [[make_plan(name, 25, step, seed).trained for step in range(40)] for seed in (0, 1)]
    assert streams[0][1:] != streams[1][:-1]


def test_random_plans_are_the_same_in_every_process():
    # Pinned in another process: hash(), which is salted per process, must play no part.
    assert make_plan("random_fraction", 10, 3, 7).trained == (0, 2, 3, 5, 8)


@pytest.mark.parametrize(
    ("n_steps", "stochastic", "trained", "message"),
    [
        (10, (1, 2), (1, 3), r"trained steps \[3\] are not stochastic"),
        (10, (1, 10), (1,), r"stochastic steps \[10\] are outside 0..9"),
        (10, (-1, 1), (1,), r"stochastic steps \[-1\]"),
        (10, (2, 1), (1,), "must increase"),
        (10, (1, 2), (1, 1), "must increase"),
        (10, (8, 9), (9,), "allow_last=True"),
        (0, (), (), "at least 1 step"),
    ],
)
def test_a_broken_plan_says_what_is_wrong(n_steps, stochastic, trained, message):
    with pytest.raises(ValueError, match=message):
        StepPlan(n_steps, stochastic, trained)


def test_the_last_step_only_when_asked():
    assert StepPlan(10, (8, 9), (9,), allow_last=True).trained == (9,)
    assert make_plan("full", 1, 0, 0, fraction=1.0, allow_last=True).trained == (0,)
    with pytest.raises(ValueError, match="allow_last"):
        make_plan("full", 10, 0, 0, fraction=1.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("random_windw", {}, "did you mean 'random_window'"),
        ("random_window", {"sise": 3}, "did you mean 'size'"),
        ("explicit", {}, "needs the option 'steps'"),
        ("explicit", {"steps": [1, 1]}, "each once"),
        ("explicit", {"steps": []}, "at least one"),
        ("explicit", {"steps": [1, 2], "choose": 3}, "cannot choose=3"),
        ("explicit", {"steps": [9]}, "allow_last"),
        ("random_window", {"size": 10}, "no window of size=10"),
        ("random_window", {"size": 2, "hi": 11}, "hi=11"),
        ("sliding", {"size": 10}, "must fit in the 9 trainable"),
        ("sliding", {"every": 0}, "every=0"),
        ("sliding_linear", {"every": 4, "least": 5}, "least=5 must be from 1 to every=4"),
        ("sliding_exponential", {"rate": 0.0}, "rate=0.0 above 0"),
        ("random_steps", {"count": 10}, "count=10 of the 9"),
        ("untrained", {"stochastic": 11}, "outside 0..10"),
        ("full", {"fraction": 0.05}, "trains none"),
        ("full", {"fraction": 1.5}, "outside"),
    ],
)
def test_errors_name_the_problem_and_the_nearest_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_plan(name, 10, 0, 0, **options)


def test_every_plan_is_registered_under_its_own_name():
    assert {name: function.__name__ for name, function in PLANS.items()} == {name: name for name in PLANS}
