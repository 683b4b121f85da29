"""The tests that FAULTS.md names are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_the_tests_that_hold_cures_are_there():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (TESTS / "FAULTS.md").read_text(encoding="utf-8"))
    assert len(named) > 60
    gone = [f"{file}::{name}" for file, name in named if f"\ndef {name}(" not in (TESTS / file).read_text()]
    assert gone == []
