"""A reward may end neither the run nor another call, whatever it raises; the user's own Ctrl-C still does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mmrl.rewarding import LoadedReward, RewardRunner, score_groups, win_rate
from mmrl.rewarding.limit import Limited
from mmrl.rewarding.run import Abandoned


class Own(BaseException):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


ERRORS = [
    SystemExit(0),
    SystemExit("done"),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    Own("mine"),
    StopIteration(),
    MemoryError(),
    RecursionError("deep"),
    Mute(),
    ValueError("long " * 10_000),
    ValueError("two\nlines"),
]


def plain(samples, error):
    raise error


def lazy(samples, error):
    yield 1.0
    raise error


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("how", [plain, lazy], ids=["raised", "while its scores are read"])
@pytest.mark.parametrize("limited", [False, True], ids=["", "timeout"])
def test_whatever_is_raised_makes_its_call_invalid_and_no_other(group, error, how, limited):
    def call(samples):
        return how(samples, error) if samples[0].prompt.id == "b" else [1.0] * len(samples)

    groups = [group("a", [0]), group("b", [0, 0]), group("c", [0])]
    reward = LoadedReward("r", Limited(call, 60) if limited else call, source=__file__)
    score_groups(groups, [reward])
    assert [g.samples[0].scores["r"].ok for g in groups] == [True, False, True]
    for sample in groups[1].samples:
        score = sample.scores["r"]
        assert (score.status, score.value) == ("invalid", None)
        name = "RuntimeError" if how is lazy and isinstance(error, StopIteration) else type(error).__name__
        assert score.reason.startswith(f"r: {name}")
        assert "test_reward_exits.py:" in score.reason
        assert len(score.reason) < 500
        assert "\n" not in score.reason


def test_the_runner_and_several_groups_at_once_are_no_way_out(group):
    def leaves(samples):
        sys.exit("the run is done")

    with RewardRunner([LoadedReward("r", leaves, at_once=3)]) as runner:
        runner.submit([group(str(i), [0]) for i in range(4)])
        done = runner.gather()
    assert {g.samples[0].scores["r"].status for g in done} == {"invalid"}


def test_a_judge_of_pairs_that_leaves_masks_its_pair_only(group):
    def judge(a, b):
        if {a.artifact, b.artifact} == {1, 2}:
            sys.exit(0)
        return float(a.artifact > b.artifact)

    scores = win_rate(judge)(group("a", [1, 2, 3]))
    assert [score.value for score in scores] == [0.0, 0.0, 1.0]
    assert scores[0].details["first_failure"].startswith("SystemExit")


@pytest.mark.parametrize("exit_code", [None, 0, 3])
def test_a_process_goes_on_after_a_reward_that_calls_exit(exit_code):
    program = f"""
import sys
from mmrl.rewarding import LoadedReward, score_groups
from mmrl.types import Group, Prompt, Sample
prompt = Prompt("p", "q")
group = Group(prompt, 0, [Sample(prompt, 0, "a")])
score_groups([group], [LoadedReward("r", lambda samples: sys.exit({exit_code}))])
print(group.samples[0].scores["r"].status)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, "invalid\n")


# -------------------------------------------------------------------- the user's own stop


@pytest.fixture
def gate():
    """An event that a hanging reward waits for; set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def hanging(gate):
    return LoadedReward("hangs", lambda samples: gate.wait(60) and [1.0] * len(samples), source="hangs.py")


@pytest.fixture
def ctrl_c():
    """Ctrl-C as it is in a terminal: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("how", ["score_groups", "gather", "group of groups"])
def test_ctrl_c_while_a_reward_hangs_stops_at_once(group, gate, how):
    reward = hanging(gate)
    if how == "group of groups":
        reward = LoadedReward("hangs", reward.call, at_once=2)
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    groups = [group("a", [0]), group("b", [0])]
    with pytest.raises(KeyboardInterrupt):
        if how == "score_groups":
            score_groups(groups, [reward])
        else:
            with RewardRunner([reward]) as runner:
                runner.submit(groups)
                runner.gather()
    assert time.monotonic() - began < 5  # the reward hangs for 60
    assert groups[0].samples[0].scores == {}


def test_a_handler_of_signals_runs_while_a_reward_hangs_and_may_ask_for_a_stop(group, gate):
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
    try:
        sent = []
        timer = threading.Timer(0.2, lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), signal.SIGTERM)))
        timer.start()
        with RewardRunner([hanging(gate)]) as runner:
            runner.submit([group("a", [0])])
            with pytest.raises(Abandoned, match=r"hangs \(hangs.py\) was still running"):
                runner.gather(should_stop=lambda: bool(asked))
            assert time.monotonic() - sent[0] < 1
            assert runner.pending == 0
            with pytest.raises(RuntimeError, match="closed"):
                runner.submit([group("b", [0])])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_score_groups_can_be_asked_to_stop_too(group, gate):
    with pytest.raises(Abandoned):
        score_groups([group("a", [0])], [hanging(gate)], should_stop=lambda: True)


def test_scores_that_are_there_are_given_even_to_one_who_would_stop(group):
    with RewardRunner([LoadedReward("r", lambda samples: [1.0])]) as runner:
        runner.submit([group("a", [0])])
        time.sleep(0.2)
        assert runner.gather(should_stop=lambda: True)[0].samples[0].scores["r"].value == 1.0


def test_a_reward_that_was_left_is_called_for_no_further_group(group, gate):
    called, first = [], threading.Event()

    def slow(samples):
        called.append(samples[0].prompt.id)
        first.set()
        gate.wait(60)
        return [1.0]

    runner = RewardRunner([LoadedReward("r", slow), LoadedReward("never", slow)])
    runner.submit([group("a", [0]), group("b", [0])])
    runner.submit([group("c", [0])])
    first.wait(10)
    runner.abandon()
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("reward"):
            thread.join(10)
    assert called == ["a"]


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("what", ["runner", "pairs", "judge"])
def test_python_ends_while_a_reward_hangs(at_once, workers, what):
    """No thread that a hanging reward holds keeps the process: it ends by itself, with its own status."""
    program = f"""
import sys, threading
from mmrl.rewarding import LoadedReward, RewardRunner, win_rate
from mmrl.rewarding.chat import Judge
from mmrl.types import Group, Prompt, Sample
prompt = Prompt("p", "q")
inside = threading.Event()
def hang(*_):
    inside.set()
    threading.Event().wait()
class Chat:
    identity = "hangs"
    complete = hang
calls = {{
    "runner": LoadedReward("r", hang, at_once={at_once}),
    "pairs": LoadedReward("r", win_rate(hang, workers={at_once}), group=True, at_once={at_once}),
    "judge": LoadedReward("r", lambda s: Judge(Chat(), threads={at_once}).verdicts([[]], len), at_once={at_once}),
}}
runner = RewardRunner([calls[{what!r}]], workers={workers})
for _ in range(2):
    runner.submit([Group(prompt, i, [Sample(prompt, k, "a") for k in range(2)]) for i in range(2)])
inside.wait(30)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
