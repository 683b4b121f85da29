"""The short version of interruptions.py: some kinds of runs, stopped at every point and killed at random moments."""

from __future__ import annotations

import random

import pytest
from interruptions import cases, interrupt

SHORT = [
    "grpo, reference",
    "staleness, retiring",
    "sft, then trees",
    "sft, then filter",
    "filter of steps, then reward model",
    "nft, ema",
    "dgpo, then nft",
    "own kind, two learners",
    "own kind, three roles",
    "distill, then nft",
    "flash: teacher, grpo",
    pytest.param("flash: records, step_dpo", marks=pytest.mark.slow),
    # Stopped and resumed at every point in test_any_number_of_processes.py, too.
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("hints", "expert", "mpo")),
]


@pytest.mark.parametrize("name", SHORT)
def test_an_interrupted_run_is_the_run_that_was_never_stopped(tmp_path, name):
    case = next(case for case in cases(tmp_path) if case.name == name)
    stops, kills, wrong = interrupt(case, random.Random(name), kills=2)
    assert wrong == []
    assert stops >= 6  # a step and what is inside of it, at least
    assert kills >= 2
