"""Rewards of a judge's verdict: R1-Reward's table of values, soft labels and ties, what is wrong, what invalid."""

from __future__ import annotations

import itertools

import pytest
from every import every

from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

TWO, ONE = "Response 2 is better.", "Response 1 is better."


def scored(name, text, *, shares=(0, 1), order=(0, 1), record=None, **options):
    record = {"candidates": ["a"] * len(shares), "shares": list(shares)} if record is None else record
    prompt = Prompt("p", "Which?", record)
    group = Group(prompt, 0, [Sample(prompt, 0, text, info={} if order is None else {"order": list(order)})])
    score_groups([group], [load_reward(name, options)])
    return next(iter(group.samples[0].scores.values()))


def said(verdict, reasoning="Hm.", between=""):
    return f"<think>{reasoning}</think>{between}<answer>{verdict}</answer>"


# -------------------------------------------------------------------- R1-Reward


@every(
    "text, value",
    [
        (said(2, TWO), 2.0),
        (said(2), 1.5),
        (said(2, ONE), 1.0),
        (said(1, ONE), 0.5),
        (said(1, TWO), 0.5),
        (said(1), 0.5),
        (said(3), 0.5),  # in good form, and of no response
        (said(2, TWO, "\n"), 1.5),  # something between the tags: right, consistent and out of form
        (said(2, ONE, " so "), 0.5),
        (said(1, ONE, " so "), 0.0),
        ("", 0.0),
        ("<answer>2</answer>", 1.0),
        (said(2, TWO) + said(2, TWO), 0.0),
        ("<think><think>a</think></think><answer>2</answer>", 1.0),
    ],
)
def test_the_values_of_r1_reward(text, value):
    assert scored("verdict.r1_reward", text).value == value


def test_a_thought_that_the_template_opened():
    assert scored("verdict.r1_reward", "Hm.</think><answer>2</answer>").value == 1.0
    assert scored("verdict.r1_reward", "Hm.</think><answer>2</answer>", opened=True).value == 1.5


@every("words, value", [(TWO, 2.0), (ONE, 1.0), ("Hm.", 1.5)])
@every("opening", ["<think>", ""])
def test_a_thought_is_read_for_its_verdict_whoever_opened_it(opening, words, value):
    text = f"{opening}{words}</think><answer>2</answer>"
    assert scored("verdict.r1_reward", text, opened=True).value == value
    assert scored("verdict.consistent", text).value == 2 * value - 3


@pytest.mark.parametrize("reply, value", [("Score: 1", 2.0), ("Score: 0", 1.0), ("well", None)])
def test_a_judge_says_whether_it_is_consistent(reply, value, monkeypatch):
    from mmrl.rewarding.chat import Endpoint

    asked = []
    monkeypatch.setattr(Endpoint, "complete", lambda self, messages, *_: asked.append(messages) or reply)
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "attempts": 1}
    score = scored("verdict.r1_reward", said(2, "I see."), judge=judge)
    assert (score.value, score.status) == (value, "ok" if value else "invalid")
    assert len(asked) == 1
    assert scored("verdict.r1_reward", said(1, "I see."), judge=judge).value == 0.5
    assert len(asked) == 1  # what is wrong cannot earn anything by it
    scored("verdict.r1_reward", "I look.</think><answer>2</answer>", judge=judge, opened=True)
    assert "I look." in str(asked[-1]) and len(asked) == 2  # of a thought that the template opened, too


# -------------------------------------------------------------------- right


@every("n", [2, 3, 4])
def test_the_verdict_is_read_through_the_order_that_was_shown(n):
    for order in itertools.permutations(range(n)):
        for place in range(n):
            score = scored("verdict.right", said(place + 1), shares=[1] + [0] * (n - 1), order=order)
            assert score.value == float(order[place] == 0)


@every(
    "shares, verdict, hard, soft",
    [
        ((0.7, 0.3), 1, 1, 0.7),
        ((0.7, 0.3), 2, 0, 0.3),
        ((0.5, 0.5, 0, 0), 2, 1, 0.5),
        ((0.5, 0.5, 0, 0), 3, 0, 0),
        ((0.5, 0.5), 1, None, None),
        ((0.25, 0.25, 0.25, 0.25), 1, None, None),
    ],
)
def test_soft_labels_several_right_answers_and_ties(shares, verdict, hard, soft):
    order = range(len(shares))
    assert scored("verdict.right", said(verdict), shares=shares, order=order).value == hard
    score = scored("verdict.right", said(verdict), shares=shares, order=order, soft=True)
    assert score.value == soft and score.status == ("na" if soft is None else "ok")


@every("verdict", ["3", "1 or 2", "", "tie", "1</answer><answer>2"])
def test_what_a_policy_writes_amiss_is_wrong_with_the_reason(verdict):
    score = scored("verdict.right", said(verdict))
    assert score.value == 0 and score.details["why"]


@every(
    "given",
    [
        {"order": None},
        {"order": (0, 0)},
        {"order": (0, 1, 2)},
        {"record": {}},
        {"record": {"shares": [1, 1]}},
        {"record": {"shares": ["1", "0"]}},
        {"record": {"shares": [1, 0], "candidates": ["a", "b", "c"]}},
    ],
)
@every("name", ["verdict.right", "verdict.r1_reward"])
def test_what_the_record_or_the_run_lacks_is_invalid(name, given):
    assert scored(name, said(2), **given).status == "invalid"


# -------------------------------------------------------------------- consistent, scored


@every("text, value", [(said(2, TWO), 1), (said(2, ONE), -1), (said(2), 0), ("", 0), (said(7, ONE), 0)])
def test_reasoning_and_answer_agree(text, value):
    assert scored("verdict.consistent", text).value == value


@every(
    "text, options, value",
    [
        ("Final Score: 4", {}, 1),
        ("final score: **3**.", {}, 0.75),
        ("<think>Final Score: 1</think>Final Score: 4/5", {}, 1),
        ("Final Score: 1", {}, 0.25),
        ("Final Score: 4.5", {"within": 0.5}, 1),
        ("Final Score: 3.4", {"within": 0.5}, 0),
        ("Final Score: 4\nFinal Score: 4", {}, 1),
        ("Final Score: 4\nFinal Score: 5", {}, 0),
        ("Final Score: 3-5", {}, 0),
        ("Final Score: 4/10", {}, 0),
        ("Final Score: 40%", {}, 0),
        ("Final Score: 6", {}, 0),
        ("Final Score: -4", {}, 0),
        ("Score: 4", {}, 0),
        ("Rating (1-10): 8", {"label": "Rating (1-10)", "high": 10}, 1 - 4 / 9),
        ("", {}, 0),
    ],
)
def test_a_score_against_the_records(text, options, value):
    assert scored("verdict.scored", text, record={"score": 4}, **options).value == pytest.approx(value)


@every("gold", [None, "4", 6, True])
def test_a_record_without_a_score_on_the_scale_is_invalid(gold):
    assert scored("verdict.scored", "Final Score: 4", record={"score": gold}).status == "invalid"
    assert load_reward("verdict.scored").check_prompt(Prompt("p", "", {"score": gold}))


@every(
    "name, options",
    [
        ("scored", {"low": 5, "high": 5}),
        ("scored", {"label": " "}),
        ("scored", {"within": 9}),
        ("r1_reward", {"options": {"lines": 3}}),
    ],
)
def test_options_that_mean_nothing_are_refused(name, options):
    with pytest.raises(ValueError, match="verdict"):
        load_reward(f"verdict.{name}", options)
