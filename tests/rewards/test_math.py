"""Mathematical equality, in a process of its own: from a thread, with time-outs that end it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmrl.rewarding import RewardError, load_reward
from mmrl.types import Prompt, Sample

pytest.importorskip("math_verify")


def sample(text: object, answer: object) -> Sample:
    return Sample(Prompt("p", "q", {"answer": answer}), 0, text)


@pytest.fixture(scope="module")
def reward():
    return load_reward("math.verify", {"timeout": 20})


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        (r"so \boxed{\frac12}", "0.5", 1.0),
        (r"so \boxed{\frac12}", r"\frac{2}{4}", 1.0),
        ("the answer is 1/2", r"$\frac{1}{2}$", 1.0),
        (r"\boxed{1+x}", "x+1", 1.0),
        (r"\boxed{\{1,2\}}", r"\{2,1\}", 1.0),
        (r"\boxed{(1,2)}", "(2,1)", 0.0),
        (r"\boxed{4}", "3", 0.0),
        (r"\boxed{4}", ["3", "4"], 1.0),
        ("4", "a worked solution\n#### 4", 1.0),
        (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", 1.0),
        ("no idea", "3", 0.0),
        ("", "3", 0.0),
        (r"\boxed{\frac{", "3", 0.0),
    ],
)
def test_equality(reward, text, answer, value):
    found = reward.call([sample(text, answer)])[0]
    assert (found.status, found.value) == ("ok", value), found.reason


def test_it_works_in_threads(reward):
    samples = [sample(rf"\boxed{{{n}/2}}", str(n / 2 if n % 2 else n)) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda s: reward.call([s])[0].value, samples))
    # n/2 is compared with n/2 for odd n and with n for even n, which is right for 0 alone.
    assert found == [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]


def test_an_answer_that_cannot_be_read_is_invalid_and_a_missing_one_told_before(reward):
    found = reward.call([sample("3", "blue sky ???")])[0]
    assert (found.status, found.value) == ("invalid", None)
    assert "'p'" in found.reason
    assert "'blue sky ???' is no mathematics" in found.reason
    assert reward.call([sample("3", None)])[0].status == "na"
    assert "lacks a non-empty `answer`" in reward.check_prompt(Prompt("p", "q", {}))
    assert reward.check_prompt(Prompt("p", "q", {"answer": "3"})) is None


@pytest.mark.parametrize(
    "gold", [r"\$18.90", "$18.90", "90°", "5€", "0 cm", "0°C", r"5\%", "½", "１２", "√2/2", r"3\,\text{cm}"]
)
def test_golds_with_signs_are_read_or_named_before_training(reward, gold):
    """Asked before a training, they pass, and then they are worth 1 as they stand."""
    assert reward.check_prompt(Prompt("p", "q", {"answer": gold})) is None
    assert [s.value for s in reward.call([sample(f"<answer>{gold}</answer>", gold), sample("123456", gold)])] == [
        1.0,
        0.0,
    ]


@pytest.mark.parametrize("gold", ["blue sky ???", "\x00", "???", ["3", "???"]])
def test_golds_that_the_library_cannot_read_are_named_before_training(reward, gold):
    assert "is no mathematics that math-verify can read" in reward.check_prompt(Prompt("p", "q", {"answer": gold}))
    found = reward.call([sample("3", gold)])[0]
    assert (found.status, found.value) == ("invalid", None)


def test_nulls_among_the_golds_are_none(reward):
    assert reward.check_prompt(Prompt("p", "q", {"answer": ["3", None]})) is None
    assert reward.call([sample("3", [None, "3"])])[0].value == 1.0


@pytest.mark.parametrize("text", ["9" * 5000, r"\boxed{1e999999999}", r"\boxed{2^{99999}}", "x" * 5000])
def test_what_is_too_large_for_the_library_is_no_answer(reward, text):
    found = reward.call([sample(text, "3")])[0]
    assert (found.status, found.value) == ("ok", 0.0)
    assert reward.call._process._child is not None


def test_a_time_out_is_invalid_and_ends_and_the_next_is_scored():
    reward = load_reward("math.verify", {"timeout": 1.0})
    reward.call([sample("1", "1")])  # starting is not part of the time
    began = time.monotonic()
    found = reward.call([sample(r"\boxed{9^{9^{9^{9}}}}", "3")])[0]
    assert time.monotonic() - began < 15
    assert (found.status, found.value) == ("invalid", None)
    assert "the comparison took over 1 s" in found.reason
    reward.call.timeout = 20
    assert reward.call([sample("3", "3")])[0].value == 1.0


def test_a_process_that_dies_is_invalid_and_started_anew(reward):
    assert reward.call([sample("3", "3")])[0].value == 1.0
    reward.call._process._child.kill()
    reward.call._process._child.wait()
    found = reward.call([sample("3", "3")])[0]
    assert found.status == "invalid"
    assert "ended with status -9" in found.reason
    assert reward.call([sample("3", "3")])[0].value == 1.0


def test_other_ways_to_find_the_answer():
    reward = load_reward("math.verify", {"extract": "after:#", "timeout": 20})
    found = reward.call([sample("1=2\n# 1/2", "0.5"), sample("1/2", "0.5")])
    assert [s.value for s in found] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "told"),
    [({"timeout": 0}, "timeout=0"), ({"extract": "box"}, "expected auto"), ({"tol": 1}, "no option")],
)
def test_wrong_options_are_told_when_the_reward_is_loaded(options, told):
    with pytest.raises(RewardError, match=told):
        load_reward("math.verify", options)
