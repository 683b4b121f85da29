"""Countdown answers: exact arithmetic, numbers used as they must be, nothing executed."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample

module = sys.modules[load_reward("countdown.solves").call.func.__module__]


def score(text: str, numbers=(3, 5, 8), target=16, **options):
    prompt = Prompt("p", "q", {"numbers": list(numbers), "target": target})
    return load_reward("countdown.solves", options).call([Sample(prompt, 0, text)])[0]


@pytest.mark.parametrize(
    ("text", "options", "value"),
    [
        ("3+5+8", {}, 1.0),
        ("8 + 5 + 3 = 16", {}, 1.0),
        ("I try.\n<answer>(8+5)+3</answer>", {}, 1.0),
        (r"\boxed{3+5+8}", {}, 1.0),
        ("8*5-3", {}, 0.0),
        ("8*5-3", {"partial": 0.1}, 0.1),
        ("8+8", {"partial": 0.1}, 0.0),  # the 8 twice
        ("3+5+8+0", {"partial": 0.1}, 0.0),
        ("16", {}, 0.0),
        ("no", {"partial": 0.1}, 0.0),
        ("", {}, 0.0),
    ],
)
def test_solves(text, options, value):
    found = score(text, **options)
    assert (found.status, found.value) == ("ok", value)


def test_numbers_may_be_left_out_where_allowed():
    assert score("3*5", target=15).value == 0.0
    assert score("3*5", target=15, all_numbers=False).value == 1.0
    assert score("3*5*5", target=75, all_numbers=False).value == 0.0


def test_division_is_exact():
    assert score("8/(3-8/3)", (8, 3, 8, 3), 24).value == 1.0


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "9**9**9**9",
        "9//2",
        "3.0+1",
        "1e9",
        "-3+4",
        "(1",
        "1,2",
        "3(4)",
        "1/(2-2)",
        "True+1",
        "a",
        "(" * 200 + "1" + ")" * 200,
        "1+" * 200 + "1",
        "0x10",
        "",
        "1\n+1",
    ],
)
def test_anything_else_is_no_expression(expression):
    with pytest.raises(module.NoExpression):
        module.evaluate(expression)


@given(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda x: st.tuples(x, st.sampled_from("+-*"), x).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        max_leaves=8,
    )
)
def test_values_are_those_of_python(expression):
    value, numbers = module.evaluate(expression)
    assert value == Fraction(eval(expression, {"__builtins__": {}}))
    assert len(numbers) == sum(expression.count(sign) for sign in "+-*") + 1


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"numbers": [1, 2]},
        {"numbers": [], "target": 1},
        {"numbers": ["1"], "target": 1},
        {"numbers": 3, "target": 1},
    ],
)
def test_a_record_without_a_problem_is_told_and_not_scored(record):
    reward = load_reward("countdown.solves")
    prompt = Prompt("p", "q", record)
    assert "'p' needs `numbers`" in reward.check_prompt(prompt)
    assert reward.call([Sample(prompt, 0, "1")])[0].status == "na"
    assert reward.check_prompt(Prompt("p", "q", {"numbers": [1, 2], "target": 3})) is None
