"""Written steps: pieces counted by hand, and the generator's own solutions."""

from __future__ import annotations

import importlib.util

import pytest

from mmrl.rewarding import load_reward
from mmrl.share import share
from mmrl.types import Prompt, Sample


def score(text: str):
    return load_reward("worked.steps").call([Sample(Prompt("p", "37+58="), 0, text)])[0]


@pytest.mark.parametrize(
    ("text", "right", "pieces"),
    [
        ("37+58 7+8=15 3+5+1=9 =95\n#95", 3, 3),
        ("37+58 7+8=15 3+5=8 =85\n#85", 1, 3),  # the carry is forgotten, and with it the result
        ("37+58 7+8=15 3+5=8 =85\n85+26 5+6=11 8+2+1=11 =111\n#111", 4, 6),  # what follows is right by itself
        ("37+58 7+8=14 3+5+1=9 =95\n#95", 2, 3),
        ("37+58 7+8=15 =95\n#95", 2, 3),  # a column is missing
        ("37+58 7+8=15 3+5+1=9 0+0=0 =95", 3, 4),
        ("112-37 12-7=5 11-1-3=7 1-1-0=0 =75", 4, 4),
        ("47*6 7*6=42 4*6+4=28 =282", 3, 3),
        ("37+58 =95", 1, 3),
        ("#95", 0, 0),
        ("37+58 7+8=", 0, 0),
    ],
)
def test_pieces_by_hand(text, right, pieces):
    found = score(text)
    assert (found.details["right"], found.details["pieces"]) == (right, pieces)
    assert found.value == pytest.approx(right / pieces if pieces else 0.0)


def test_the_generators_solutions_are_right_and_those_with_mistakes_are_not():
    path = share("datasets") / "arithmetic" / "arithmetic.py"
    spec = importlib.util.spec_from_file_location("arithmetic_for_steps", path)
    arithmetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arithmetic)
    for index in range(200):
        level = 1 + index % 4
        assert score(arithmetic.worked(index, levels=(level,))["completion"]).value == 1.0
        wrong = arithmetic.worked(index, levels=(level,), mistakes=1.0)
        assert 0 < score(wrong["completion"]).value < 1.0
