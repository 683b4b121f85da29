"""The SAT generator: satisfiable by construction, of the size asked for, graded by SATURN's formula."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.importing import import_file

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "sat"
sat = import_file(FOLDER / "sat.py")


def satisfied(clauses: list[list[int]], bits: str) -> bool:
    return all(any(bits[abs(x) - 1] == ("1" if x > 0 else "0") for x in clause) for clause in clauses)


@settings(max_examples=150, deadline=None)
@given(
    index=st.integers(0, 10**6),
    level=st.sampled_from([(3, 5, 5), (2, 4, 7), (1, 3, 3), (3, 8, 20)]),
    seed=st.integers(0, 9),
)
def test_the_plant_satisfies_clauses_of_the_level_that_are_all_different(index, level, seed):
    literals, variables, count = level
    record = sat.problem(index, seed, (level,), "train")
    clauses = record["clauses"]
    assert len(clauses) == len({tuple(c) for c in clauses}) == count
    assert all(len({abs(x) for x in c}) == literals and max(map(abs, c)) <= variables for c in clauses)
    assert len(record["answer"]) == record["variables"] == variables
    assert satisfied(clauses, record["answer"])


def test_difficulty_by_hand():
    # log2 4 + 2 log2 8 - 2 + 4 / 2 = 2 + 6 - 2 + 2
    assert sat.difficulty(2, 4, 8) == pytest.approx(8.0)
    # (3, 5, 5): 2.321928 + 2 * 2.321928 - 3 + 1.666667
    assert sat.difficulty(3, 5, 5) == pytest.approx(5.632451, abs=1e-6)
    assert sat.difficulty(3, 5, 5) < sat.difficulty(3, 5, 6) < sat.difficulty(3, 5, 13) < sat.difficulty(3, 5, 15)


def test_patterns_of_true_literals_are_even_so_that_the_plant_does_not_show():
    """With three literals a clause has 1 to 3 true ones: 12/7 on average when all seven patterns are as likely."""
    true = [
        sum(record["answer"][abs(x) - 1] == ("1" if x > 0 else "0") for x in clause)
        for record in (sat.problem(i, levels=((3, 8, 10),)) for i in range(400))
        for clause in record["clauses"]
    ]
    assert min(true) == 1
    assert sum(true) / len(true) == pytest.approx(12 / 7, abs=0.05)


def test_most_random_assignments_fail_harder_formulas():
    def share(level):
        made = [sat.problem(i, levels=(level,)) for i in range(30)]
        every = ["".join(bits) for bits in itertools.product("01", repeat=level[1])]
        return sum(satisfied(r["clauses"], b) for r in made for b in every) / (len(made) * len(every))

    assert share((3, 5, 15)) < share((3, 5, 5)) < (7 / 8) ** 3


def test_the_formula_in_words_and_levels_in_turn():
    assert sat.formula([[1, -3], [-2, 3]]) == "(x1 | !x3) & (!x2 | x3)"
    made = [sat.problem(i, levels=[[3, 5, 5], [3, 5, 6]], style="short") for i in range(4)]
    assert [(r["level"], len(r["clauses"])) for r in made] == [(0, 5), (1, 6), (0, 5), (1, 6)]
    assert made[0]["prompt"] == sat.formula(made[0]["clauses"]) + ":"


def test_held_out_formulas_are_no_training_formulas():
    def keys(split):
        made = [sat.problem(i, levels=((2, 3, 2),), split=split) for i in range(400)]
        return {tuple(sorted(map(tuple, r["clauses"]))) for r in made}

    train, held = keys("train"), keys("heldout")
    assert held
    assert len(train) > 40
    assert not train & held


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "test"}, "expected train or heldout"),
        ({"style": "long"}, "expected one of words, short"),
        ({"levels": ((3, 2, 1),)}, "1 <= literals <= variables"),
        ({"levels": ((1, 3, 4),)}, "clauses that can all be different"),
        ({"levels": ((1, 1, 1),), "split": "heldout"}, "too few formulas"),
    ],
)
def test_wrong_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        sat.problem(0, **options)


def test_the_sample_that_ships_is_what_the_generator_makes():
    levels = [(3, 5, 5), (3, 5, 6), (3, 5, 13)]
    records = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text().splitlines()]
    assert records[:24] == [sat.problem(i, levels=levels) for i in range(24)]
    assert {r["split"] for r in records[24:]} == {"heldout"}
