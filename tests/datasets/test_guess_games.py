"""The guessing games: secrets in their ranges, levels that halving reaches, held-out games that nobody trains on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.importing import import_file

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "guess"
guess = import_file(FOLDER / "guess.py")


@settings(max_examples=100, deadline=None)
@given(index=st.integers(0, 10**6), size=st.integers(2, 60), seed=st.integers(0, 99))
def test_the_secret_is_in_the_range_that_the_prompt_names_and_halving_finds_it(index, size, seed):
    record = guess.problem(index, seed, (size,))
    low, high, secret = record["low"], record["high"], record["secret"]
    assert 1 <= low <= secret <= high <= 100
    assert high - low + 1 == size
    assert f"from {low} to {high}." in record["prompt"]
    guesses = 0
    while True:
        guesses, middle = guesses + 1, (low + high) // 2
        if middle == secret:
            break
        low, high = (middle + 1, high) if secret > middle else (low, middle - 1)
    assert guesses <= record["level"]


def test_held_out_games_are_no_training_games():
    def keys(split, count):
        made = [guess.problem(i, seed, (15,), split=split) for i in range(count) for seed in (0, 1)]
        return {(r["low"], r["high"], r["secret"]) for r in made}

    train, held = keys("train", 1500), keys("heldout", 200)
    assert len(held) > 80
    assert not train & held


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "test"}, "expected train or heldout"),
        ({"sizes": (9,), "largest": 8}, "does not fit"),
        ({"sizes": (1,), "largest": 1, "split": "heldout"}, "no heldout game of 1 numbers"),
    ],
)
def test_wrong_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        guess.problem(0, **options)


def test_the_sample_that_ships_is_what_the_generator_makes():
    records = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text().splitlines()]
    assert records == [guess.problem(i) for i in range(24)] + [guess.problem(i, split="heldout") for i in range(8)]
