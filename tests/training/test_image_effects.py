"""The sides of the objectives that benchmarks/effects_image.py compares run, each on a model of kilobytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmrl.config import load
from mmrl.training.assemble import assemble
from mmrl.training.loop import Loop

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
try:
    from effects_image import EFFECTS, config
finally:
    sys.path.remove(BENCHMARKS)

ARMS = list(EFFECTS["objectives"].arms)


@pytest.mark.parametrize("arm", ARMS)
def test_a_side_takes_two_steps(tiny, arm):
    """As it is, but for the model, its data and its size."""
    wanted = config("objectives", arm, "0")
    [stage] = wanted["stages"]
    small = {"steps": 2, "groups": 2, "samples": 4, "updates": 2, "micro_batch": 8}
    sampling = {**wanted["model"]["sampling"], "size": 8}
    values = tiny(stages=[{**stage, **small}], model={"sampling": sampling})
    loop, rows = Loop(assemble(load(values)), quiet=True), []
    loop._log = rows.append
    loop.train()
    assert [row["loss"] is not None and row["grad_norm"] > 0 for row in rows] == [True, True]


def test_the_sides_have_equal_samples():
    made = [load(config("objectives", arm, "0")).stages[0] for arm in ARMS]
    assert len({(stage.steps, stage.groups, stage.samples, stage.updates) for stage in made}) == 1
