"""benchmarks/gpu.py runs: each case with models of kilobytes on a CPU, and without a GPU it says what it would do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
try:
    import gpu
finally:
    sys.path.remove(BENCHMARKS)

HERE = [case for case in gpu.CASES if case.engine == "transformers"]


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[] if c.train == "lora" else pytest.mark.slow) for c in HERE]
)
def test_a_case_measures_all_of_its_columns(case):
    found = gpu.measure(case, tiny=True)
    assert 0 <= found["gap"] <= found["largest"] < 1
    assert all(found[key] > 0 for key in ("plan", "rollout", "made", "update", "operations"))
    assert found["mfu"] is None and found["memory"] == 0
    assert len(gpu.cells(case.name, found)) == len(gpu.COLUMNS)


def test_without_a_gpu_it_says_what_it_would_measure(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 0
    said = capsys.readouterr().out
    assert "no GPU here" in said
    assert all(f"| {case.name} | " in said for case in gpu.CASES)
    widths = {line.count("|") for line in said.splitlines() if line.startswith("|")}
    assert widths == {len(gpu.COLUMNS) + 1}


def test_a_case_that_fails_is_a_row_with_its_reason():
    assert gpu.cells("x", {"error": "out of memory"})[:2] == ["x", "out of memory"]
    assert len(gpu.cells("x", {"error": "out of memory"})) == len(gpu.COLUMNS)
