"""Written steps: pieces counted by hand, and the generator's own solutions."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from every import every

from mmrl.rewarding import load_reward
from mmrl.share import share
from mmrl.types import Prompt, Sample

REWARD = load_reward("worked.steps")
worked = sys.modules[REWARD.call.func.__module__]


def score(text: str, problem: str = "37+58="):
    return REWARD.call([Sample(Prompt("p", problem), 0, text)])[0]


@every(
    ("problem", "text", "right", "pieces"),
    [
        ("37+58=", "37+58 7+8=15 3+5+1=9 =95\n#95", 3, 3),
        ("37+58=", "58+37 8+7=15 5+3+1=9 =95\n#95", 3, 3),  # a sum, turned round
        ("37+58=", "37+58 7+8=15 3+5=8 =85\n#85", 1, 3),  # the carry is forgotten, and with it the result
        # What follows from a wrong result is right by itself.
        ("37+58+26=", "37+58 7+8=15 3+5=8 =85\n85+26 5+6=11 8+2+1=11 =111\n#111", 4, 6),
        ("37+58=", "37+58 7+8=14 3+5+1=9 =95\n#95", 2, 3),
        ("37+58=", "37+58 7+8=15 =95\n#95", 2, 3),  # a column is missing
        ("37+58=", "37+58 7+8=15 3+5+1=9 0+0=0 =95", 3, 4),
        ("112-37=", "112-37 12-7=5 11-1-3=7 1-1-0=0 =75", 4, 4),
        ("47*6=", "47*6 7*6=42 4*6+4=28 =282", 3, 3),
        ("37+58=", "37+58 =95", 1, 3),
        ("37+58=", "#95", 0, 0),
        ("37+58=", "37+58 7+8=", 0, 0),
        # True lines that are no step of the problem.
        ("37+58=", "1+1 1+1=2 =2\n#95", 0, 5),  # its own two pieces, and the three that are missing
        ("37+58=", "95+0 5+0=5 9+0=9 =95\n#95", 0, 6),
        ("13-12=", "12-13 12-3=9 1-1-1=-1 =1", 0, 6),  # a difference is not turned round
        ("12+13=", "12*13 2*13=26 1*13+2=15 =156", 0, 6),
        # Steps that are missing, that come twice, and that do not follow.
        ("12+13+14=", "12+13 2+3=5 1+1=2 =25\n#39", 3, 6),
        ("12+13+14=", "12+13 2+3=5 1+1=2 =25\n12+13 2+3=5 1+1=2 =25", 3, 9),
        ("12+13+14=", "25+14 5+4=9 2+1=3 =39\n#39", 0, 9),
        ("12+13+14=", "12+13 2+3=5 1+1=2 =25\n24+14 4+4=8 2+1=3 =38", 3, 9),  # 25 was copied wrongly
        ("12+13+14=", "13+14 3+4=7 1+1=2 =27\n12+27 2+7=9 1+2=3 =39", 6, 6),  # another order
        ("21+13*2=", "21+13 1+3=4 2+1=3 =34\n34*2 4*2=8 3*2=6 =68", 0, 12),  # against the order of operations
        ("(10+12)*3-11=", "10+12 0+2=2 1+1=2 =22\n22*3 2*3=6 2*3=6 =66\n66-11 6-1=5 6-1=5 =55", 9, 9),
    ],
)
def test_pieces_by_hand(problem, text, right, pieces):
    found = score(text, problem)
    assert (found.details["right"], found.details["pieces"]) == (right, pieces)
    assert found.value == pytest.approx(right / pieces if pieces else 0.0)


@every("text", ["", "What is it?", "37", "37+", "(37+58", "2026-"])
def test_a_prompt_without_a_problem_is_told_and_not_scored(text):
    assert "holds no problem" in REWARD.check_prompt(Prompt("p", text))
    assert score("37+58 7+8=15 3+5+1=9 =95", text).status == "na"


@every(
    ("text", "problem"),
    [
        ("What is 1+2*3?", ("+", [1, ("*", [2, 3])])),
        ("In 1 line: (1+2)*3 - 4 - 5 = ", ("-", [("-", [("*", [("+", [1, 2]), 3]), 4]), 5])),
        ("1+2+3=", ("+", [1, 2, 3])),
        ("3+4, then 5*6", ("*", [5, 6])),
    ],
)
def test_the_problem_of_a_prompt(text, problem):
    assert worked.problem(text) == problem


def test_the_generators_solutions_are_right_and_those_with_mistakes_are_not():
    path = share("datasets") / "arithmetic" / "arithmetic.py"
    spec = importlib.util.spec_from_file_location("arithmetic_for_steps", path)
    arithmetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arithmetic)
    for index in range(200):
        level = 1 + index % 4
        right = arithmetic.worked(index, levels=(level,))
        assert score(right["completion"], right["prompt"]).value == 1.0
        assert score(right["completion"], arithmetic.worked(index + 4, levels=(level,))["prompt"]).value < 0.5
        wrong = arithmetic.worked(index, levels=(level,), mistakes=1.0)
        assert 0 < score(wrong["completion"], wrong["prompt"]).value < 1.0
