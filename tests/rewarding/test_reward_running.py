import threading
import time

import numpy as np
import pytest

from mmrl.rewarding import (
    LoadedReward,
    RewardRunner,
    group_reward,
    invalid_share,
    load_reward,
    score_groups,
    table,
)
from mmrl.types import Score


def reward(call, name="r", group=False):
    return LoadedReward(name, call, group, source=__file__)


def identity(samples):
    return [s.artifact for s in samples]


def test_point_and_group_rewards_write_their_scores(group):
    groups = [group("a", [1.0, 2.0]), group("b", [5.0])]
    spread = group_reward(lambda g: [max(s.artifact for s in g.samples)] * len(g.samples))
    score_groups(groups, [reward(identity, "self"), reward(spread, "max", group=True)])
    assert [[(s.scores["self"].value, s.scores["max"].value) for s in g.samples] for g in groups] == [
        [(1.0, 2.0), (2.0, 2.0)],
        [(5.0, 5.0)],
    ]


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        (0.0, "ok", ""),
        (True, "ok", ""),
        (np.float32(1.5), "ok", ""),
        (None, "na", "not applicable"),
        (Score(None, "no quotes", "na"), "na", "no quotes"),
        (float("nan"), "invalid", "returned nan"),
        (float("inf"), "invalid", "returned inf"),
        ("0.5", "invalid", "the text '0.5'"),
        ([1.0], "invalid", "returned list"),
        (Score(float("nan")), "invalid", "returned nan"),
        (Score(None), "invalid", "without a value"),
        (Score.invalid("the judge was silent"), "invalid", "the judge was silent"),
    ],
)
def test_what_a_reward_returns_for_a_sample(group, value, status, reason):
    g = group("a", [0, 1])
    score_groups([g], [reward(lambda samples: [value, 1.0], "quality")])
    score, other = (s.scores["quality"] for s in g.samples)
    assert score.status == status
    assert reason in score.reason
    assert (score.value is None) == (status != "ok")
    assert other.value == 1.0, "one bad score must not touch the others"
    if status == "invalid":
        assert score.reason.startswith("quality: ")


def test_details_of_a_score_are_kept(group):
    g = group("a", [0])
    score_groups([g], [reward(lambda samples: [Score(1, details={"why": "so"})])])
    assert g.samples[0].scores["r"] == Score(1.0, details={"why": "so"})


def test_an_exception_is_invalid_for_its_group_and_names_the_line(group, plugin):
    source = """
    def f(samples):
        if samples[0].artifact < 0:
            raise ValueError("negative")
        return [1.0] * len(samples)
    """
    path = plugin("raising", source)
    groups = [group("a", [1, 2]), group("b", [-1, 2]), group("c", [3])]
    score_groups(groups, [load_reward(f"{path}:f")])
    bad = groups[1].samples[1].scores["raising.f"]
    assert (bad.status, bad.value) == ("invalid", None)
    assert bad.reason == "raising.f: ValueError: negative (raising.py:4)"
    assert [s.scores["raising.f"].value for g in (groups[0], groups[2]) for s in g.samples] == [1.0, 1.0, 1.0]
    assert invalid_share(groups, {"raising.f": 1.0}) == pytest.approx(2 / 5)


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 3, None, 7])
def test_the_wrong_number_of_scores_is_invalid(group, values):
    g = group("a", [0, 1])
    score_groups([g], [reward(lambda samples: values)])
    assert [s.scores["r"].status for s in g.samples] == ["invalid"] * 2
    assert invalid_share([g], {"r": 1.0}) == 1.0


def test_no_samples_no_calls_no_share(group):
    score_groups([group("a", [])], [reward(lambda samples: 1 / 0)])
    assert invalid_share([group("a", [])], {"r": 1.0}) == 0.0


def test_a_sample_counts_once_in_the_invalid_share(group):
    g = group("a", [1, 2, 3, 4])
    nan = float("nan")
    score_groups([g], [reward(lambda s: [nan, nan, 1, None], "x"), reward(lambda s: [nan, 1, 1, None], "y")])
    assert invalid_share([g], {"x": 1.0, "y": -1.0}) == 0.5


def test_two_rewards_of_one_name_are_refused(group):
    with pytest.raises(ValueError, match="named twice: r"):
        score_groups([group("a", [1])], [reward(identity), reward(identity)])


def test_the_table_keeps_failures_apart_from_zeros(group):
    groups = [group("a", [1, 2]), group("b", [3])]
    first = {1: 0.0, 2: None, 3: float("nan")}
    score_groups(groups, [reward(lambda s: [first[x.artifact] for x in s], "f"), reward(identity, "g")])
    scores, valid, applicable = table(groups, ["g", "f"])
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, [[1, 0], [2, np.nan], [3, np.nan]])
    np.testing.assert_array_equal(valid, [[True, True], [True, True], [True, False]])
    np.testing.assert_array_equal(applicable, [[True, True], [True, False], [True, True]])
    with pytest.raises(ValueError, match=r"sample 0 of prompt 'a' has no score 'h'; it has f, g"):
        table(groups, ["h"])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_runner_gives_what_score_groups_gives_in_order(group, workers):
    def slow_when_small(samples):
        time.sleep(0.02 if samples[0].artifact < 2 else 0.0)
        if samples[0].artifact == 3:
            raise ValueError("three")
        return identity(samples)

    calls = []

    def stateful(samples):  # its scores depend on the order of the calls
        calls.append(samples[0].artifact)
        return [len(calls)] * len(samples)

    def batches():
        return [[group(f"{b}{g}", [float(b), float(g)]) for g in range(2)] for b in range(5)]

    rewards = [reward(slow_when_small, "slow"), reward(stateful, "count")]
    expected = batches()
    for batch in expected:
        score_groups(batch, rewards)
    calls.clear()
    with RewardRunner(rewards, workers) as runner:
        submitted = batches()
        for batch in submitted:
            runner.submit(batch)
        assert runner.pending == 5
        gathered = [runner.gather() for _ in submitted]
        assert runner.pending == 0
    for got, sent, want in zip(gathered, submitted, expected):
        assert all(a is b for a, b in zip(got, sent))
        assert [s.scores for g in got for s in g.samples] == [s.scores for g in want for s in g.samples]


def test_submit_returns_while_the_reward_is_running(group):
    release = threading.Event()

    def waits(samples):
        assert release.wait(10)
        return identity(samples)

    with RewardRunner([reward(waits)]) as runner:
        g = group("a", [1.0])
        runner.submit([g])
        assert g.samples[0].scores == {}, "scores are written by gather, in the caller's thread"
        release.set()
        assert runner.gather()[0].samples[0].scores["r"].value == 1.0


def test_different_rewards_run_together_and_one_reward_never_twice(group):
    meet = threading.Barrier(2, timeout=10)
    inside = []

    def guarded(samples):
        inside.append(1)
        meet.wait()
        assert len(inside) <= 2
        inside.pop()
        return identity(samples)

    rewards = [reward(guarded, "a"), reward(guarded, "b")]
    with RewardRunner(rewards, workers=2) as runner:
        runner.submit([group("x", [1.0])])
        runner.submit([group("y", [2.0])])
        both = [runner.gather()[0].samples[0].scores for _ in range(2)]
    assert [{k: s.value for k, s in scores.items()} for scores in both] == [
        {"a": 1.0, "b": 1.0},
        {"a": 2.0, "b": 2.0},
    ]


def test_timings_are_per_reward_and_leave_out_the_waiting(group):
    def slow(samples):
        time.sleep(0.05)
        return identity(samples)

    with RewardRunner([reward(slow, "slow"), reward(identity, "quick")]) as runner:
        runner.submit([group("a", [1.0])])
        runner.submit([group("b", [1.0])])
        for _ in range(2):
            runner.gather()
            assert runner.timings["slow"] >= 0.05
            assert runner.timings["quick"] < 0.05


def test_the_runner_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="at least 1"):
        RewardRunner([], workers=0)
    with RewardRunner([]) as runner, pytest.raises(RuntimeError, match="submit"):
        runner.gather()


def test_a_reward_that_allows_it_is_called_for_several_groups_at_a_time(group):
    together, running, lock = [], [], threading.Lock()

    def slow(samples):
        with lock:
            running.append(1)
            together.append(len(running))
        time.sleep(0.05)
        with lock:
            running.pop()
        return identity(samples)

    for at_once, most in ((1, 1), (3, 3)):
        together.clear()
        groups = [group(str(i), [float(i)]) for i in range(6)]
        score_groups(groups, [LoadedReward("slow", slow, at_once=at_once)])
        assert [g.samples[0].scores["slow"].value for g in groups] == [0, 1, 2, 3, 4, 5]
        assert max(together) == most
