"""The tiny reward models that ship really learn: a short run each through the command line.

How much each learns in a whole run, beside judges that know nothing and over three seeds, is in docs/effects_reward.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_twins import after_step, trained

pytestmark = pytest.mark.slow


def test_r1_reward_learns_to_believe_its_reasoning(tmp_path: Path):
    short = ("stages.grpo.steps=16", "eval.every=30")
    _, after = trained(tmp_path, "reward/tiny_r1_reward", *short)
    taught = after_step(tmp_path, 30)
    assert taught["eval/verdict.right"] < 0.65  # a coin has 0.5
    assert after["eval/verdict.right"] > taught["eval/verdict.right"] + 0.15
    assert after["eval/verdict.consistent"] > taught["eval/verdict.consistent"]


def test_a_scalar_model_learns_which_answer_is_true(tmp_path: Path):
    before, after = trained(tmp_path, "reward/tiny_scalar")
    assert before["eval/pairs/accuracy"] == pytest.approx(0.5, abs=0.1)
    assert after["eval/pairs/accuracy"] > 0.8
