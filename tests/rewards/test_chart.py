"""Relaxed accuracy on charts, from a hand table."""

from __future__ import annotations

import pytest

from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample


def score(text: str, answer: object, **options):
    return load_reward("chart.relaxed", options).call([Sample(Prompt("p", "q", {"answer": answer}), 0, text)])[0]


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("12.5", "12.5", 1.0),
        ("The answer is 13.125", 12.5, 1.0),  # 5 % above, to the digit
        ("13.126", 12.5, 0.0),
        ("11.875", 12.5, 1.0),
        ("$1,200", "1200", 1.0),
        ("1200 dollars", "$1,200", 1.0),
        ("1e2", "100", 1.0),
        ("3/4", "0.75", 1.0),
        ("0", "0", 1.0),
        ("0.01", "0", 0.0),
        ("-5", "5", 0.0),
        ("34%", "34", 1.0),
        ("0.34", "34%", 1.0),
        ("34", "34%", 1.0),
        ("34%", "34%", 1.0),
        ("0.34%", "34%", 0.0),
        ("0.34", "34", 0.0),
        ("about 34 percent", "34%", 1.0),
        ("Yes", "yes.", 1.0),
        ("the cats", "Cats", 1.0),
        ("cat", "cats", 0.0),
        ("Q3", "Q4", 0.0),  # names with digits have no tolerance
        ("Q3 2019", "q3 2019", 1.0),
        ("Blue", ["navy", "blue"], 1.0),
        ("<answer>105</answer>", 100, 1.0),
        ("", "5", 0.0),
        ("<answer></answer>", "5", 0.0),
        ("10, 11, 12 or 13", "12", 0.0),
        ("10 11 12", "12", 0.0),
    ],
)
def test_relaxed(text, answer, value):
    found = score(text, answer)
    assert (found.status, found.value) == ("ok", value)


def test_a_year_has_5_percent_as_published_or_none():
    assert score("1950", "2010").value == 1.0
    assert score("1950", "2010", exact_years=True).value == 0.0
    assert score("2010", "2010", exact_years=True).value == 1.0
    assert score("13.1", "12.5", exact_years=True).value == 1.0


def test_without_an_answer_it_does_not_apply_and_a_negative_tolerance_is_refused():
    assert score("5", None).status == "na"
    assert "lacks a non-empty `answer`" in load_reward("chart.relaxed").check_prompt(Prompt("p", "q", {}))
    with pytest.raises(ValueError, match="rtol=-1"):
        score("5", 5, rtol=-1)
