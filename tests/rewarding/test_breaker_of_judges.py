"""A monitor's judge that is down is left alone, whichever reward asks it, alone or inside another one."""

from __future__ import annotations

import json
import re

import pytest
from resting import asked_and_left_alone

from mmrl.rewarding import load_reward
from mmrl.rewarding.chat import Endpoint, Failure, Judge
from mmrl.rewarding.run import score_groups
from mmrl.share import share
from mmrl.types import Group, Prompt, Sample

DOWN = (503, b"{}")
JUDGE = {"judge": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
INSIDE = {"name": "judge.answer", "options": JUDGE}
REWARDS = {
    **{f"judge.{name}": JUDGE for name in ("answer", "rubric", "consistent", "preferred")},
    **{f"unified_reward.{name}": JUDGE for name in ("point", "axes", "think", "shares", "flex")},
    "paco.consistency": JUDGE,
    "vqa.score": JUDGE,
    "verdict.r1_reward": JUDGE,
    "visionthink.controlled": {"accuracy": INSIDE},
    "compose.dispatch": {"by": "task", "rewards": {"a": "exact.match"}, "default": INSIDE},
    "compose.gated": {"condition": "exact.match", "then": INSIDE},
    "compose.staged": {"stages": [INSIDE, "exact.match"]},
    "cells.each": {"reward": INSIDE},
    **{f"frames.{name}": {"reward": INSIDE} for name in ("mean", "least", "first", "last")},
    "compared.wins": {"judge": "http://127.0.0.1:9/v1", "judge_options": {"model": "m"}},
}


@pytest.fixture
def clock(monkeypatch):
    """clock[0] is the breaker's time."""
    now = [1000.0]
    monkeypatch.setattr("mmrl.rewarding.breaker.monotonic", lambda: now[0])
    return now


def test_every_reward_that_asks_a_judge_is_here():
    """By their files: who opens a judge, or holds a reward that may; test_breaker.py has those of remote.py."""
    asking = r"\b(open_judge|YesNo|Part|judged\.\w+)\("
    files = {path.stem for path in share("rewards").glob("*.py") if re.search(asking, path.read_text(encoding="utf-8"))}
    assert {name.partition(".")[0] for name in REWARDS} == files - {"judging", "odds", "remote"}


@pytest.mark.parametrize("name", REWARDS)
def test_a_monitor_tells_its_judges(monkeypatch, name):
    """`compared.wins` makes its judge when it first asks."""
    made: list[Judge] = []
    told: list[Judge] = []
    begin, tell = Judge.__init__, Judge.as_monitor
    monkeypatch.setattr(Judge, "__init__", lambda self, *a, **k: (begin(self, *a, **k), made.append(self))[0])
    monkeypatch.setattr(Judge, "as_monitor", lambda self: (tell(self), told.append(self))[0])
    monkeypatch.setattr("mmrl.rewarding.chat.time.sleep", lambda _: None)
    for monitor in (False, True):
        reward = load_reward(name, REWARDS[name], monitor=monitor)
        if name == "compared.wins":
            samples = [Sample(Prompt("p", "?"), i, words) for i, words in enumerate("ab")]
            score_groups([Group(samples[0].prompt, 0, samples)], [reward])
        assert len(made) == 1
        assert told == (made if monitor else [])
        made.clear()


def test_a_judge_that_is_down_is_asked_again_after_a_while_and_its_samples_are_invalid(clock, chat_server):
    up: list[bool] = []
    chat_server.answer = lambda request: "Score: 1" if up else DOWN
    judge = {"url": chat_server.url, "model": "m", "pause": 0.0, "threads": 1}
    reward = load_reward("judge.answer", {"judge": judge}, monitor=True)

    def asked(word: str) -> int:
        """Requests that a step of two groups makes."""
        before = len(chat_server.requests)
        for number, one in enumerate("ab"):
            prompt = Prompt(one, "?", {"answer": one})
            sample = Sample(prompt, 0, word)
            score_groups([Group(prompt, number, [sample])], [reward])
            score = sample.scores["judge.answer"]
            assert (score.value, score.status) == ((1.0, "ok") if up else (None, "invalid"))
        return len(chat_server.requests) - before

    asked_and_left_alone(asked, clock, rest=30)
    up.append(True)
    clock[0] += 600
    assert asked("seven") == 2


@pytest.mark.parametrize(
    "answer",
    ["perhaps", (400, b"{}"), (200, b"nonsense"), (200, json.dumps({"error": "too long"}).encode())],
    ids=["no verdict", "refused", "no completion", "an error"],
)
def test_a_judge_that_answers_amiss_is_not_down(clock, chat_server, answer):
    chat_server.answer = lambda request: answer
    judge = Judge(Endpoint(chat_server.url, "m"), attempts=2, pause=0.0, threads=1)
    judge.as_monitor()
    asks = [[{"role": "user", "content": word}] for word in ("one", "two")]
    found = judge.verdicts(asks, lambda text: None)
    assert all(isinstance(failure, Failure) and "left alone" not in failure.reason for failure in found)
    assert {request["messages"][0]["content"] for request in chat_server.requests} == {"one", "two"}


def test_a_judge_whose_reward_counts_is_asked_each_time(clock, chat_server):
    chat_server.answer = lambda request: DOWN
    judge = Judge(Endpoint(chat_server.url, "m"), attempts=2, pause=0.0, threads=1)
    judge.verdicts([[{"role": "user", "content": word}] for word in ("one", "two")], len)
    assert len(chat_server.requests) == 4
