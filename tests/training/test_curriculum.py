"""Which prompts come next: passes, levels, retirement, and a state that can be saved at any point."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.data.order import cyclic_indices
from mmrl.training.rollouts.curriculum import ORDERS, Curriculum
from mmrl.training.rollouts.difficulty import CurriculumError, difficulties
from mmrl.training.rollouts.refilling import refill
from mmrl.types import Prompt

NAMES = [f"p{i}" for i in range(6)]
LEVELS = [2.0, 1.0, 3.0, 1.0, 2.0, 1.0]  # prompts 1, 3, 5 are easy, 0 and 4 harder, 2 the hardest


def curriculum(**options):
    return Curriculum(NAMES, LEVELS, **options)


def drawn(made, steps, count, seed=0):
    return [i for step in range(steps) for i in made.order(step, count, seed)]


def test_shuffled_is_the_order_of_a_run_without_a_curriculum():
    made = Curriculum(NAMES)
    assert drawn(made, 5, 4) == cyclic_indices(0, 20, 6, 0)


def test_sorted_goes_from_easy_to_difficult_in_every_pass():
    made = curriculum(order="sorted")
    passes = [made.order(step, 6, 0) for step in range(4)]
    assert all([LEVELS[i] for i in p] == sorted(LEVELS) for p in passes)
    assert len({tuple(p) for p in passes}) > 1  # equal ones are shuffled anew


@settings(deadline=None)
@given(st.sampled_from([order for order in ORDERS if order != "shifting"]), st.integers(1, 13), st.integers(0, 3))
def test_a_pass_asks_for_every_prompt_of_the_pool_once(order, count, seed):
    """However the steps cut it."""
    made = curriculum(order=order)
    pool = {1, 3, 5} if order in ("staged", "mixed") else set(range(6))
    found = drawn(made, 12, count, seed)
    for start in range(0, len(found) - len(pool) + 1, len(pool)):
        assert set(found[start : start + len(pool)]) == pool


# ------------------------------------------------------------------ levels


def test_the_next_level_begins_above_the_mean_pass_rate_of_the_window():
    """.75 on average is not above .75; results of another level do not count."""
    made = curriculum(order="staged", window=3)
    for name, rate in [("p1", 0.5), ("p3", 0.75), ("p5", 1.0), ("p2", 1.0), ("p0", 1.0)]:
        made.record(name, rate)
    assert set(made.order(0, 9, 0)) == {1, 3, 5}
    made.record("p1", 0.51)  # .75, 1, .51: mean .753
    assert set(made.order(1, 9, 0)) == {0, 4}
    for _ in range(3):
        made.record("p1", 1.0)
    assert set(made.order(2, 9, 0)) == {0, 4}
    for _ in range(9):
        made.record("p0", 1.0)
    assert set(made.order(3, 9, 0)) == {2}
    for _ in range(9):
        made.record("p2", 1.0)
    assert set(made.order(4, 9, 0)) == {2}  # the last level stays


def test_a_window_that_is_not_full_says_nothing():
    made = curriculum(order="staged", window=3)
    made.record("p1", 1.0)
    made.record("p3", 1.0)
    assert set(made.order(0, 9, 0)) == {1, 3, 5}


def test_a_new_level_starts_with_an_empty_window():
    made = curriculum(order="staged", window=2)
    for name in ("p1", "p3", "p0"):
        made.record(name, 1.0)
    assert set(made.order(0, 9, 0)) == {0, 4}


def test_mixed_keeps_the_levels_below():
    made = curriculum(order="mixed", window=1, advance_at=0.5)
    made.record("p1", 0.6)
    assert set(made.order(0, 12, 0)) == {0, 1, 3, 4, 5}


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_a_staged_level_asks_for_each_of_its_prompts_before_one_comes_again(count, every, seed):
    """Wherever in a pass it opens."""
    made = curriculum(order="staged", advance_every=every)
    found = drawn(made, 12, count, seed)
    for level in (1.0, 2.0, 3.0):
        asked = [i for i in found if LEVELS[i] == level]
        size = LEVELS.count(level)
        assert all(len(set(asked[start : start + size])) == size for start in range(0, len(asked) - size + 1, size))


def test_levels_by_step():
    made = curriculum(order="staged", advance_every=10)
    pools = {step: set(made.order(step, 9, 0)) for step in (0, 9, 10, 19, 20, 90)}
    assert pools == {0: {1, 3, 5}, 9: {1, 3, 5}, 10: {0, 4}, 19: {0, 4}, 20: {2}, 90: {2}}


# ------------------------------------------------------------------ retirement


def test_a_prompt_that_is_answered_well_once_never_comes_back():
    made = Curriculum(NAMES, retire_at=0.9)
    made.record("p2", 0.9)
    made.record("p4", 0.89)
    made.record("p2", 0.0)
    assert set(made.order(0, 60, 0)) == {0, 1, 3, 4, 5}


def test_retirement_does_not_move_the_others():
    """The rest of the pass comes in the order it would have had."""
    one, other = Curriculum(NAMES, retire_at=0.9), Curriculum(NAMES)
    first = one.order(0, 2, 5)
    rest = other.order(0, 6, 5)[2:]
    one.record(NAMES[first[0]], 1.0)
    one.record(NAMES[rest[1]], 1.0)
    assert one.order(1, 3, 5) == [rest[0], rest[2], rest[3]]


def test_without_retire_at_nothing_retires():
    made = Curriculum(NAMES)
    made.record("p2", 1.0)
    assert set(made.order(0, 6, 0)) == set(range(6))


def test_a_level_whose_prompts_have_retired_is_over():
    made = curriculum(order="staged", retire_at=0.9, window=99)
    for name in ("p1", "p3", "p5"):
        made.record(name, 1.0)
    assert set(made.order(0, 9, 0)) == {0, 4}


def test_a_retired_last_level_leaves_the_hardest_that_is_left():
    made = curriculum(order="staged", retire_at=0.9, advance_every=1)
    made.order(5, 1, 0)
    made.record("p2", 1.0)
    assert set(made.order(6, 9, 0)) == {0, 4}


@pytest.mark.parametrize("order", ORDERS)
def test_when_all_have_retired_it_says_so(order):
    made = curriculum(order=order, retire_at=0.9)
    for name in NAMES:
        made.record(name, 1.0)
    with pytest.raises(CurriculumError, match=r"all 6 prompts have reached a pass rate of 0\.9"):
        made.order(0, 1, 0)


# ------------------------------------------------------------------ state

WAYS = [
    *({"order": order, "retire_at": 1.0} for order in ORDERS),
    *({"order": order, "buckets": 2, "reestimate": 0.5, "first": "high"} for order in ORDERS[1:]),
    *({"order": order, "buckets": 3, "advance": "evenly"} for order in ("staged", "mixed")),
]
events = st.lists(
    st.one_of(st.integers(1, 7), st.tuples(st.sampled_from(NAMES[:5]), st.sampled_from([0.0, 0.5, 0.8, 1.0]))),
    max_size=15,
)


@settings(deadline=None)
@given(st.sampled_from(WAYS), events, events)
def test_a_saved_curriculum_goes_on_as_if_it_had_never_stopped(options, before, after):
    """Numbers draw prompts, pairs record results; p5 never retires, so there is always one left."""

    def made():
        return Curriculum(NAMES, [level / 3 for level in LEVELS], window=2, steps=15, **options)

    def run(made, some):
        return [made.order(i, e, 7) if isinstance(e, int) else made.record(*e) for i, e in enumerate(some)]

    straight, stopped = made(), made()
    run(straight, before)
    run(stopped, before)
    resumed = made()
    resumed.load(json.loads(json.dumps(stopped.state())))
    assert run(resumed, after) == run(straight, after)
    assert resumed.state() == straight.state()


def test_loading_copies_the_state():
    made, other = curriculum(order="staged"), curriculum(order="staged")
    state = made.state()
    other.load(state)
    other.record("p1", 0.5)
    assert state == made.state()


def test_a_second_call_in_a_step_goes_on():
    made, other = Curriculum(NAMES), Curriculum(NAMES)
    assert made.order(0, 2, 1) + made.order(0, 3, 1) == other.order(0, 5, 1)


def test_the_state_of_other_prompts_is_refused():
    made = Curriculum(["a", "b"], retire_at=0.5)
    with pytest.raises(CurriculumError, match=r"prompts \['z'\] that the data no longer has"):
        made.load({**made.state(), "retired": ["z"]})
    with pytest.raises(CurriculumError, match="level 4"):
        made.load({**made.state(), "level": 4})


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "ids, difficulty, options, message",
    [
        (["a"], None, {"order": "stagd"}, "not known"),
        (["a"], None, {"order": "sorted"}, "needs a difficulty"),
        (["a", "a"], None, {}, "all differ"),
        ([], None, {}, "needs prompts"),
        (["a"], [1.0, 2.0], {}, "2 difficulties for 1"),
        (["a"], None, {"window": 0}, "1 or more"),
    ],
)
def test_a_curriculum_that_cannot_be_made(ids, difficulty, options, message):
    with pytest.raises(CurriculumError, match=message):
        Curriculum(ids, difficulty, **options)


@pytest.mark.parametrize(
    "name, rate, message", [("x", 0.5, "not the id"), ("p1", 1.5, "0 to 1"), ("p1", float("nan"), "nan")]
)
def test_results_that_cannot_be(name, rate, message):
    with pytest.raises(CurriculumError, match=message):
        curriculum().record(name, rate)


def test_difficulties_name_the_record_without_one():
    prompts = [Prompt("a", "x", {"level": 2}), Prompt("b", "y", {"level": "3"})]
    assert difficulties(prompts[:1], "level") == [2.0]
    with pytest.raises(CurriculumError, match="prompt 'b' has level='3'"):
        difficulties(prompts, "level")


# ------------------------------------------------------------------ refilling


@pytest.mark.parametrize("kept, rounds, expected", [(0, 1, 8), (5, 1, 3), (5, 2, 3), (5, 3, 0), (8, 1, 0), (9, 1, 0)])
def test_refill_asks_for_what_is_missing_until_the_rounds_are_over(kept, rounds, expected):
    assert refill(8, kept, rounds, max_rounds=3) == expected


def test_one_round_is_no_refill_and_none_is_refused():
    assert refill(8, 0, 1, max_rounds=1) == 0
    with pytest.raises(CurriculumError, match="1 or more"):
        refill(8, 0, 0, max_rounds=0)
