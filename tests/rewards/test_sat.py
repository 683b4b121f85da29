"""Assignments for SAT clauses, against a hand table and the planted solutions of the generator."""

from __future__ import annotations

from pathlib import Path

import pytest
from every import every

from mmrl.importing import import_file
from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample

ROOT = Path(__file__).resolve().parents[2]
CLAUSES = [[1, -2], [2, 3], [-1, -3]]  # satisfied by 110 and 001 only


def score(text: str, clauses=CLAUSES, variables=3, **options):
    prompt = Prompt("p", "q", {"variables": variables, "clauses": clauses})
    return load_reward("sat.satisfies", options).call([Sample(prompt, 0, text)])[0]


@every("partial", [False, True])
@every(
    ("bits", "held"), [("000", 2), ("001", 3), ("010", 2), ("011", 2), ("100", 2), ("101", 2), ("110", 3), ("111", 2)]
)
def test_every_assignment_by_hand(bits, held, partial):
    found = score(bits, partial=partial)
    assert found.value == pytest.approx(held / 3 if partial else float(held == 3))
    assert found.details["held"] == held


@every("text", ["110", "1 1 0", "1,1,0", r"so \boxed{110}", "<answer>1, 1, 0</answer>"])
def test_ways_to_write_an_assignment(text):
    assert score(text).value == 1.0


@every("text", ["", "11", "1100", "x1=1", "12 0", "TTF"])
def test_what_is_no_assignment_scores_0(text):
    found = score(text, partial=True)
    assert (found.status, found.value) == ("ok", 0.0)


def test_planted_solutions_satisfy_and_their_opposite_scores_as_counted():
    sat = import_file(ROOT / "datasets" / "sat" / "sat.py")
    for index in range(30):
        record = sat.problem(index)
        assert score(record["answer"], record["clauses"], 5).value == 1.0
        opposite = record["answer"].translate(str.maketrans("01", "10"))
        all_true = sum(
            all((record["answer"][abs(x) - 1] == "1") == (x > 0) for x in clause) for clause in record["clauses"]
        )
        assert score(opposite, record["clauses"], 5, partial=True).value == pytest.approx(1 - all_true / 5)


@every(
    ("record", "told"),
    [
        ({}, "needs `variables`"),
        ({"variables": 3, "clauses": []}, "needs `variables`"),
        ({"variables": 2, "clauses": [[1, 3]]}, "does not name variables 1 to 2"),
        ({"variables": 2, "clauses": [[0]]}, "does not name variables 1 to 2"),
        ({"variables": 2, "clauses": [[]]}, "does not name variables 1 to 2"),
    ],
)
def test_a_record_without_a_problem_is_told_and_not_scored(record, told):
    reward = load_reward("sat.satisfies")
    prompt = Prompt("p", "q", record)
    assert told in reward.check_prompt(prompt)
    assert reward.call([Sample(prompt, 0, "1")])[0].status == "na"
