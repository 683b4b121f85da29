"""The countdown generator: every problem has the solution it says, and the held-out ones are never trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.importing import import_file

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "countdown"
countdown = import_file(FOLDER / "countdown.py")


@settings(max_examples=150, deadline=None)
@given(index=st.integers(0, 10**6), size=st.integers(2, 5), seed=st.integers(0, 99))
def test_the_planted_solution_uses_each_number_once_and_is_right(index, size, seed):
    record = countdown.problem(index, seed, (size,))
    assert sorted(map(int, re.findall(r"\d+", record["answer"]))) == sorted(record["numbers"])
    assert eval(record["answer"], {"__builtins__": {}}) == record["target"]
    assert 1 <= record["target"] <= 100
    assert record["target"] not in record["numbers"]
    assert (len(record["numbers"]), record["level"]) == (size, size)
    for number in (*record["numbers"], record["target"]):
        assert str(number) in record["prompt"]


def test_held_out_problems_are_no_training_problems():
    def keys(split, count):
        made = [countdown.problem(i, seed, (3,), largest=9, split=split) for i in range(count) for seed in (0, 1)]
        return {(*sorted(r["numbers"]), r["target"]) for r in made}

    train, held = keys("train", 1500), keys("heldout", 300)
    assert len(held) > 100
    assert not train & held


def test_styles_and_determinism():
    record = countdown.problem(5, style="short")
    assert record["prompt"] == f"{' '.join(map(str, record['numbers']))}={record['target']}:"
    assert {**countdown.problem(5), "prompt": ""} == {**record, "prompt": ""}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "test"}, "expected train or heldout"),
        ({"style": "long"}, "style='long': expected one of words, short"),
        ({"largest": 1, "largest_target": 1}, "no problem of 3 numbers from 1 to 1"),
    ],
)
def test_wrong_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        countdown.problem(0, **options)


def test_the_sample_that_ships_is_what_the_generator_makes():
    records = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text().splitlines()]
    assert records == [countdown.problem(i) for i in range(24)] + [
        countdown.problem(i, split="heldout") for i in range(8)
    ]
