"""A monitor's server that fails is left alone: bounded, told once, tried again, and never a number."""

from __future__ import annotations

import pytest
from resting import asked_and_left_alone
from scripted_server import Scripted

from mmrl.rewarding import load_reward
from mmrl.rewarding.breaker import Breaker
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

REWARDS = {
    "score": ({}, lambda route, _: {"rewards": ["r"]} if route == "/health" else None),
    "openrlhf": ({}, None),
    "classify": ({"model": "m"}, None),
    "pooling": ({"model": "m"}, None),
    "relevance": ({"model": "m"}, None),
    "yes_no": ({"model": "m", "question": "$answer?"}, None),
}


@pytest.fixture
def clock(monkeypatch):
    """clock[0] is the breaker's time."""
    now = [1000.0]
    monkeypatch.setattr("mmrl.rewarding.breaker.monotonic", lambda: now[0])
    monkeypatch.setattr("mmrl.rewarding.servers._LONGEST_PAUSE", 0.001)
    return now


def test_it_opens_for_twice_as_long_each_time_and_no_longer_than_ten_minutes(clock):
    breaker = Breaker(30.0)
    pauses = []
    for _ in range(7):
        assert breaker.why() == ""
        pauses.append(breaker.failed("down"))
        assert "since down" in breaker.why()
        clock[0] += pauses[-1]
    assert pauses == [30, 60, 120, 240, 480, 600, 600]
    assert breaker.why() == ""
    breaker.answered()
    assert breaker.why() == "" and breaker.failed("again") == 30


@pytest.mark.parametrize("rest", [0.0, 1e-3, 30.0, 3600.0])
def test_a_server_that_is_down_for_ever_is_still_tried(clock, rest):
    breaker = Breaker(rest)
    for _ in range(1100):  # a week at ten minutes each
        assert breaker.why() == ""
        clock[0] += breaker.failed("down")
    assert breaker.failed("down") is None or rest == 0
    assert breaker.why() == ""


def test_one_caller_tries_while_the_others_leave_it(clock):
    breaker = Breaker(30.0)
    assert (breaker.failed("down"), breaker.failed("down, too")) == (30, None)
    clock[0] += 30
    assert [bool(breaker.why()) for _ in range(3)] == [False, True, True]
    breaker.answered()
    assert [breaker.why() for _ in range(3)] == ["", "", ""]


@pytest.mark.parametrize("name", REWARDS)
def test_a_monitor_asks_no_server_that_failed_until_it_has_rested(clock, name):
    options, of_health = REWARDS[name]
    up: list[bool] = []

    def answer(route, request):
        if of_health and (said := of_health(route, request)):
            return said
        return (503, {}) if not up else {"rewards": [0.5]}

    server = Scripted(answer)
    try:
        reward = load_reward(f"remote.{name}", {**options, "url": server.url, "attempts": 3, "rest": 50}, monitor=True)

        def asked(word: str) -> int:
            """Requests that a step of two groups makes; no sample has a number."""
            before = len([1 for route, _ in server.requests if route != "/health"])
            groups = [Group(Prompt(w, w), i, [Sample(Prompt(w, w), 0, word)]) for i, w in enumerate(("a", "b"))]
            for one in groups:
                score_groups([one], [reward])
            scores = [score for one in groups for score in one.samples[0].scores.values()]
            if not up:
                assert [(score.value, score.status) for score in scores] == [(None, "invalid")] * 2
            return len([1 for route, _ in server.requests if route != "/health"]) - before

        asked_and_left_alone(asked, clock, rest=50)
        up.append(True)
        clock[0] += 600
        assert asked("seven") == 2
    finally:
        server.close()


def test_a_reward_with_a_weight_is_asked_each_time(clock):
    server = Scripted(lambda *_: (503, {}))
    try:
        reward = load_reward("remote.openrlhf", {"url": server.url, "attempts": 2, "patience": 0})
        for _ in range(2):
            score_groups([Group(Prompt("a", "a"), 0, [Sample(Prompt("a", "a"), 0, "b")])], [reward])
        assert len(server.requests) == 4
    finally:
        server.close()
