"""The arithmetic generator: right answers, true steps, a held-out split, and mistakes where they are asked for."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.importing import import_file

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "arithmetic"
arithmetic = import_file(FOLDER / "arithmetic.py")
ALL = tuple(arithmetic.LEVELS)


def value(expression: str) -> int:
    """By Python's own arithmetic; the text is the test's."""
    return eval(compile(ast.parse(expression, mode="eval"), "<sum>", "eval"), {"__builtins__": {}})


def steps(completion: str) -> list[str]:
    """Every equation that a worked solution claims, as `expression=result`."""
    found = []
    for line in completion.splitlines()[:-1]:
        whole, *columns, result = line.split(" ")
        found += [*columns, whole + result]
    return found


@settings(max_examples=150, deadline=None)
@given(index=st.integers(0, 10**6), level=st.sampled_from(ALL), digits=st.integers(2, 4), seed=st.integers(0, 99))
def test_the_answer_is_right_and_so_is_every_step(index, level, digits, seed):
    record = arithmetic.worked(index, seed, (level,), "train", digits)
    assert record["answer"] == str(value(record["prompt"].rstrip("=")))
    assert record["completion"].splitlines()[-1] == f"#{record['answer']}"
    for step in steps(record["completion"]):
        left, _, right = step.rpartition("=")
        assert value(left) == int(right), step
    assert set(record["prompt"] + record["completion"]) <= set(arithmetic.VOCABULARY)
    assert int(record["answer"]) >= 0


def test_solutions_by_hand():
    column = arithmetic._column_by_column
    assert column(37, "+", 58) == ("7+8=15 3+5+1=9", 95)
    assert column(95, "+", 126) == ("5+6=11 9+2+1=12 0+1+1=2", 221)
    assert column(58, "*", 2) == ("8*2=16 5*2+1=11", 116)
    assert column(203, "-", 47) == ("13-7=6 10-1-4=5 2-1-0=1", 156)


def test_forgotten_carries_by_hand():
    column = arithmetic._column_by_column
    always = lambda: True  # noqa: E731
    assert column(37, "+", 58, forgets=always) == ("7+8=15 3+5=8", 85)
    assert column(62, "+", 35, forgets=always) == ("2+5=7 6+3=9", 97)
    assert column(58, "*", 2, forgets=always) == ("8*2=16 5*2=10", 106)
    assert column(203, "-", 47, forgets=always) == ("13-7=6 10-4=6 2-0=2", 266)


def test_the_share_of_forgotten_carries():
    """Of sums of two numbers of two digits, those whose units make a carry go wrong, counted over all pairs."""
    none = [arithmetic.worked(i, levels=(1,), forgets=0.0)["mistake"] for i in range(400)]
    every = [arithmetic.worked(i, levels=(1,), forgets=1.0)["mistake"] for i in range(2000)]
    some = [arithmetic.worked(i, levels=(1,), forgets=0.6)["mistake"] for i in range(2000)]
    carries = sum(a % 10 + b % 10 >= 10 for a in range(10, 100) for b in range(10, 100))
    share = carries / 8100
    assert not any(none)
    assert sum(every) / len(every) == pytest.approx(share, abs=0.04)
    assert sum(some) / len(some) == pytest.approx(0.6 * share, abs=0.04)


@settings(max_examples=150, deadline=None)
@given(index=st.integers(0, 10**6), level=st.sampled_from(ALL))
def test_a_mistake_is_one_wrong_digit_and_makes_the_final_answer_wrong(index, level):
    right = arithmetic.worked(index, 0, (level,))
    wrong = arithmetic.worked(index, 0, (level,), mistakes=1.0)
    assert (right["prompt"], right["answer"]) == (wrong["prompt"], wrong["answer"])
    assert (right["mistake"], wrong["mistake"]) == (False, True)
    assert wrong["completion"].splitlines()[-1] != f"#{wrong['answer']}"
    columns = [s for line in wrong["completion"].splitlines()[:-1] for s in line.split(" ")[1:-1]]
    false = [s for s in columns if value(s.rpartition("=")[0]) != int(s.rpartition("=")[2])]
    assert len(false) == 1
    assert abs(value(false[0].rpartition("=")[0]) - int(false[0].rpartition("=")[2])) == 1


def test_the_share_of_mistakes_is_the_one_asked_for():
    made = [arithmetic.worked(i, mistakes=0.3) for i in range(2000)]
    wrong = sum(not r["completion"].endswith(f"#{r['answer']}") for r in made)
    assert wrong == sum(r["mistake"] for r in made)
    assert wrong == pytest.approx(600, abs=82)  # four standard deviations of a binomial of 2000 and 0.3


def test_no_held_out_problem_is_a_training_problem_in_any_order():
    def key(record):
        text = record["prompt"].rstrip("=")
        return text if "*" in text else "+".join(sorted(text.split("+")))

    train = {key(arithmetic.problem(i, seed, (1, 2))) for i in range(3000) for seed in (0, 1)}
    held = {key(arithmetic.problem(i, seed, (1, 2), "heldout")) for i in range(1000) for seed in (0, 7)}
    # Level 1 has 4095 unordered pairs, so that the two sets would meet by chance.
    assert len(held & {k for k in held if k.count("+") == 1}) > 200
    assert not train & held


def test_a_record_depends_on_its_index_alone():
    first = [arithmetic.worked(i, levels=ALL, mistakes=0.5) for i in range(20)]
    assert [arithmetic.worked(i, levels=ALL, mistakes=0.5) for i in reversed(range(20))][::-1] == first
    assert [r["level"] for r in first[:5]] == [1, 2, 3, 4, 1]
    assert arithmetic.problem(0, seed=1)["prompt"] != arithmetic.problem(0, seed=2)["prompt"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "test"}, "expected train or heldout"),
        ({"levels": (9,)}, "level 9: expected one of 1, 2, 3, 4"),
    ],
)
def test_wrong_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        arithmetic.problem(0, **options)
    with pytest.raises(ValueError, match="mistakes=2 must be from 0 to 1"):
        arithmetic.worked(0, mistakes=2)


def test_the_sample_that_ships_is_what_the_generator_makes():
    records = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text().splitlines()]
    assert records[:48] == [arithmetic.worked(i, levels=ALL, mistakes=0.25) for i in range(48)]
    assert [r["split"] for r in records] == ["train"] * 48 + ["heldout"] * 16
