"""A call that takes too long: its samples are invalid with the reason, and the run goes on."""

import contextlib
import threading

import pytest

from mmrl.config import ConfigError, validate
from mmrl.config import RewardConfig as Section
from mmrl.rewarding import LoadedReward, load_reward, score_groups
from mmrl.rewarding.limit import Limited, RewardTimeout


@pytest.fixture
def gate():
    """An event that a slow call waits for; set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def reward(call, seconds=1.0, at_once=1):
    return LoadedReward("r", Limited(call, seconds, at_once), source=__file__, at_once=at_once)


def test_a_slow_call_makes_its_samples_invalid_and_no_others(group, gate):
    def slow_on_b(samples):
        if samples[0].prompt.id == "b":
            gate.wait(60)
        return [s.artifact for s in samples]

    groups = [group("a", [1.0, 2.0]), group("b", [3.0, 4.0])]
    score_groups(groups, [reward(slow_on_b)])
    assert [s.scores["r"].value for s in groups[0].samples] == [1.0, 2.0]
    for sample in groups[1].samples:
        score = sample.scores["r"]
        assert (score.value, score.status) == (None, "invalid")
        assert score.reason == f"r: gave no scores in 1 s, its `timeout` ({__file__})"


def test_a_call_that_was_given_up_is_never_joined_by_another(gate):
    running, most = [], []

    def stuck(argument):
        running.append(argument)
        most.append(len(running))
        if argument == "first":
            gate.wait(60)
        running.remove(argument)
        return [argument]

    call = Limited(stuck, 0.1)
    for words in ("gave no scores in 0.1 s", "not called, as a call that was given up", "not called"):
        with pytest.raises(RewardTimeout, match=words):
            call("first" if words.startswith("gave") else "later")
    gate.set()
    after = []
    while not after:  # until the call that was given up has ended
        with contextlib.suppress(RewardTimeout):
            after = call("after")
    assert after == ["after"]
    assert set(most) == {1}


def test_scores_that_are_made_on_demand_are_inside_the_limit(gate):
    def lazy(argument):
        yield 1.0
        gate.wait(60)

    with pytest.raises(RewardTimeout):
        Limited(lazy, 0.1)(None)


def test_an_error_of_the_reward_keeps_its_place(group, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def score(samples):\n    raise KeyError('no caption')\n", encoding="utf-8")
    groups = [group("a", [1.0])]
    score_groups(groups, [load_reward(f"{path}:score", timeout=60)])
    assert "KeyError: 'no caption' (broken.py:2)" in groups[0].samples[0].scores["broken.score"].reason


def test_a_timeout_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="timeout: Input should be greater than 0, got 0"):
        validate(Section, {"name": "exact.match", "timeout": 0})
