"""Finding the final answer, exact match, and the form of a completion."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest
from every import every

from mmrl.rewarding import RewardError, available, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

_PACKAGE = load_reward("numeric.close").call.func.__module__.rpartition(".")[0]  # whose files it imports
answers, number_module = sys.modules[f"{_PACKAGE}.answers"], sys.modules[f"{_PACKAGE}.number"]


def score(name: str, text: object, answer: object = "x", options: dict | None = None, **record):
    prompt = Prompt("p", "question", {"prompt": "question", "answer": answer, **record})
    group = Group(prompt, 0, [Sample(prompt, 0, text)])
    score_groups([group], [load_reward(name, options)])
    return next(iter(group.samples[0].scores.values()))


@every(
    ("text", "extract", "found"),
    [
        (r"so \boxed{1}, no, \boxed{\frac{1}{2}}.", "boxed", r"\frac{1}{2}"),
        (r"so \boxed{1} or \boxed{\frac{1}{2}}.", "boxed", r"1 or \frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", "boxed", r"\{1, 2\}"),
        (r"\boxed{7} and then \boxed{8 is cut", "boxed", "7"),
        ("no box", "boxed", None),
        (r"\boxed{ }", "boxed", None),
        ("37+58=95\n#95\n", "after:#", "95"),
        ("a\n#### 1\nb\n#### 2 \nc", "after:####", "2"),
        ("95", "after:#", None),
        ("<answer>1</answer><answer>\n2\n</answer>", "tag:answer", "2"),
        ("<answer>1", "tag:answer", None),
        ("<answer>1</answer><answer>2", "tag:answer", "1"),  # the last whole one
        ("<answer>draft <answer>2</answer></answer>", "tag:answer", "2"),
        ("<think>perhaps <answer>1</answer></think><answer>2</answer>", "tag:answer", "2"),
        ("<answer></answer>", "tag:answer", None),
        ("The answer is 3. No, the answer is: 4.", "said", "4"),
        ("Answer: Paris", "said", "Paris"),
        ("one\ntwo\n \n", "line", "two"),
        (" a\nb ", "whole", "a\nb"),
        ("", "whole", None),
        (r"#### 1 <answer>2</answer> \boxed{3}", "auto", "3"),
        ("the answer is 9\n#### 1", "auto", "1"),
        ("the answer is 9\nbye", "auto", "9"),
        ("first\nlast", "auto", "last"),
        ("", "auto", None),
    ],
)
def test_the_final_answer_is_found(text, extract, found):
    assert answers.final_answer(text, extract) == found


@every("extract", ["box", "after:", "tag", ""])
def test_an_unknown_way_to_find_it_is_told(extract):
    with pytest.raises(ValueError, match="expected auto, boxed, after:MARK"):
        answers.final_answer("text", extract)


@every(
    ("text", "number"),
    [
        ("about 1,234.5 m", Fraction(2469, 2)),
        ("37+58=95", Fraction(95)),
        ("12-5", None),
        ("= -3", Fraction(-3)),
        ("(-3)", Fraction(-3)),
        ("\N{MINUS SIGN}2", Fraction(-2)),
        ("3/4", Fraction(3, 4)),
        ("12%", Fraction(3, 25)),
        ("1e-3", Fraction(1, 1000)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("1,2345", Fraction(12345, 10_000)),
        ("3/0", None),
        ("1e999999999", None),
        ("9" * 5000, None),
        ("none", None),
        (None, None),
    ],
)
def test_the_last_number_is_read_exactly(text, number):
    assert number_module.number_in(text) == number


@every(
    ("text", "answer", "options", "value"),
    [
        ("The answer is  new   york.", "New York", {}, 1.0),
        ("答案：北京", "北京", {}, 1.0),
        ("答案是北京。", "北京", {}, 1.0),
        ("答案为: 北京", "北京", {}, 1.0),
        ("答案不是北京", "北京", {}, 0.0),
        ("Answer：Paris", "Paris", {}, 1.0),
        ("<answer>北京。</answer>", "北京", {}, 1.0),
        ("**北京。**", "北京", {}, 1.0),
        ("北京", "北京。", {}, 1.0),
        ("Paris．", "Paris", {}, 1.0),
        (r"\boxed{\text{Paris}}", "Paris", {}, 1.0),
        (r"\boxed{\textbf{New York.}}", "New York", {}, 1.0),
        ("Paris", r"\boxed{\mathrm{Paris}}", {}, 1.0),
        (r"\boxed{\text{Paris} + \text{Rome}}", "Paris", {}, 0.0),
        ("The answer is new york", "New York", {"case": True}, 0.0),
        ("it's", "its", {}, 0.0),
        ("it's", "its", {"punctuation": False}, 1.0),
        ("\N{FULLWIDTH DIGIT SEVEN}", "7", {}, 1.0),
        ("UK", ["Britain", "uk"], {}, 1.0),
        ("1\n#121", 121, {"extract": "after:#"}, 1.0),
        ("1\n121", 121, {"extract": "after:#"}, 0.0),
        (r"\boxed{72}", "because 70+2\n#### 72", {}, 1.0),
        ("", "7", {}, 0.0),
        ("The cat.", "a cat", {"punctuation": False, "articles": False}, 1.0),
        ("The cat", "cat", {"case": True, "articles": False}, 1.0),
        ("theatre", "atre", {"articles": False}, 0.0),
        ("3.5", "35", {"punctuation": False}, 0.0),
        ("-5", "5", {"punctuation": False}, 0.0),
        ("3.5.", "3.5", {"punctuation": False}, 1.0),
        ("1,234", "1234", {"punctuation": False}, 0.0),
        ("「dog。", "dog", {"punctuation": False}, 1.0),
        ("The", "A", {"articles": False}, 0.0),
        ("!", "?", {"punctuation": False}, 0.0),
        ("cat, dog, cow, hen", "cow", {"punctuation": False}, 0.0),  # a list of everything is no answer
        ("cow " * 20_000, "cow", {"punctuation": False, "articles": False}, 0.0),
    ],
)
def test_exact_match(text, answer, options, value):
    found = score("exact.match", text, answer, options)
    assert (found.status, found.value) == ("ok", value)


def test_satori_s_column_of_possible_answers():
    prompt = Prompt("p", "q", {"possible_answers": ["two", "2"]})
    reward = load_reward("exact.match")
    assert reward.check_prompt(prompt) is None
    # Published with a comparison that "Two " failed.
    assert [s.value for s in reward.call([Sample(prompt, 0, text) for text in ("2", "Two ", "three")])] == [1, 1, 0]
    both = Prompt("p", "q", {"answer": "2", "possible_answers": ["two"]})
    assert [s.value for s in reward.call([Sample(both, 0, text) for text in ("2", "two", "three")])] == [1, 1, 0]


@every("answer", [None, "", " ", [], "####"])
def test_a_record_without_an_answer_is_told_before_training_and_is_never_a_0(answer):
    reward = load_reward("exact.match")
    assert "'p' lacks a non-empty `answer`" in reward.check_prompt(Prompt("p", "q", {"answer": answer}))
    assert reward.check_prompt(Prompt("p", "q", {"answer": 0})) is None
    found = score("exact.match", "7", answer)
    assert (found.status, found.value) == ("na", None)


def test_what_is_no_text_is_invalid():
    found = score("exact.match", 7)
    assert found.status == "invalid"
    assert "the sample's artifact is a int" in found.reason


@every(
    ("name", "options", "text", "value"),
    [
        ("regex.fullmatch", {"pattern": r"<think>.*</think>\s*\d+"}, "\n<think>a\nb</think>\n12\n", 1.0),
        ("regex.fullmatch", {"pattern": r"<think>.*</think>\s*\d+"}, "<think>a</think> 12 m", 0.0),
        ("regex.fullmatch", {"pattern": "yes", "case": False}, "YES", 1.0),
        ("regex.fullmatch", {"pattern": "yes"}, "YES", 0.0),
        ("regex.count", {"pattern": r"\n- "}, "list:\n- a\n- b", 1.0),
        ("regex.count", {"pattern": r"\n- ", "most": 4}, "list:\n- a\n- b", 0.5),
        ("regex.count", {"pattern": "x"}, "", 0.0),
    ],
)
def test_the_form_of_a_completion(name, options, text, value):
    assert score(name, text, options=options).value == value


@every(
    ("options", "told"),
    [({"pattern": "("}, "is no regular expression"), ({"pattern": "a", "most": 0}, "most=0"), ({}, "needs the option")],
)
def test_wrong_options_of_a_pattern_are_told_when_the_reward_is_loaded(options, told):
    with pytest.raises(RewardError, match=told):
        load_reward("regex.count", options)


def test_the_names_of_these_rewards():
    ours = {"math", "exact", "choice", "numeric", "regex", "countdown", "sat", "answers"}
    assert [n for n in available() if n.partition(".")[0] in ours] == [
        *("choice.letter", "choice.text", "countdown.solves", "exact.match", "math.verify", "numeric.close"),
        *("regex.count", "regex.fullmatch", "sat.satisfies"),
    ]
