"""The tiny twins of the systems that ship really learn: a few steps each through the command line.

How much each learns in a whole run, beside its baseline and over three seeds, is in docs/effects_vision.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mmrl.cli import cli

pytestmark = pytest.mark.slow


def trained(folder: Path, config: str, *overrides: str) -> tuple[dict[str, float], dict[str, float]]:
    """(held-out numbers before, and after) a short run on two hundred scenes."""
    words = ["train", config, "--quiet", f"out={folder}", "name=run", "eval.every=0", "data.eval_prompts_count=200"]
    result = CliRunner().invoke(cli, [*words, *overrides], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text())["eval"]
    return found["before"], found["after"]


def test_the_default_loses_its_habit(tmp_path: Path):
    before, after = trained(tmp_path, "vision/tiny", "stages.grpo.steps=12")
    assert after["eval/exact.match"] > before["eval/exact.match"] + 0.2


def test_satori_learns_where_to_look(tmp_path: Path):
    monitors = "eval.rewards=[{name: grounding.union_iou}]"
    before, after = trained(tmp_path, "vision/satori_tiny", "stages.grpo.steps=12", monitors)
    assert after["eval/grounding.union_iou"] > before["eval/grounding.union_iou"] + 0.1


def test_mgpo_learns_to_look_closer(tmp_path: Path):
    before, after = trained(tmp_path, "vision/mgpo_tiny", "stages.grpo.steps=12")
    assert after["eval/exact.match"] > before["eval/exact.match"] + 0.1
    assert after["eval/exact.match"] > 0.7  # where one turn at this size stays near chance, 0.1
    assert after["eval/env/crop/ok"] > 0.95


def test_visionthink_learns_when_to_ask(tmp_path: Path):
    before, after = trained(tmp_path, "vision/visionthink_tiny", "stages.grpo.steps=16")
    assert after["eval/exact.match"] > 0.9
    assert after["eval/visual_tokens"] < before["eval/visual_tokens"] - 5
    # The whole picture is 50 tokens and a quarter of the questions need it; 10 are shown first.
    assert 10 + 0.15 * 50 < after["eval/visual_tokens"] < 10 + 0.4 * 50


def test_cascade_goes_through_its_four_stages(tmp_path: Path):
    short = ("stages.pairs.steps=1", "stages.mpo.steps=12", "stages.difficulty.steps=1", "stages.gspo.steps=2")
    before, after = trained(tmp_path, "vision/cascade_tiny", *short)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    stages = [row["stage"] for row in rows]
    assert stages == ["pairs"] + ["mpo"] * 12 + ["difficulty"] + ["gspo"] * 2
    assert all(0 < row["filter/kept"] < 100 for row in rows if row["stage"] in ("pairs", "difficulty"))
    assert after["eval/exact.match"] > before["eval/exact.match"]


def after_step(folder: Path, step: int) -> dict[str, float]:
    """The numbers of a run's step, held-out ones among them."""
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in rows if row["step"] == step)


# VLM-R1's twins run whole: after half of the supervised steps and 20 of the others the first pointed worse than before.
@pytest.mark.timeout(1200)
def test_vlm_r1_learns_which_object_is_meant_and_where_it_is(tmp_path: Path):
    before, after = trained(tmp_path, "vision/vlm_r1_rec_tiny", "eval.every=100")
    taught = after_step(tmp_path, 100)
    assert before["eval/grounding.box_iou"] < 0.05  # the form is new
    assert taught["eval/grounding.box_iou"] > 0.15
    assert after["eval/grounding.box_iou"] > taught["eval/grounding.box_iou"] + 0.15


@pytest.mark.timeout(1200)
def test_vlm_r1_learns_to_list_each_object_once(tmp_path: Path):
    before, after = trained(tmp_path, "vision/vlm_r1_detection_tiny", "eval.every=100")
    taught = after_step(tmp_path, 100)
    name = "eval/detection.average_precision"
    assert before["eval/without_penalty"] < 0.05  # the form is new
    assert taught[name] < 0.85 * taught["eval/without_penalty"]  # the habit: objects are listed twice
    assert after[name] > taught[name]
    assert after[name] > 0.95 * after["eval/without_penalty"]


@pytest.mark.timeout(1200)
def test_ui_s1_taps_more_steps_like_the_expert(tmp_path: Path):
    # The form is new to the model, so what counts is the evaluation after the 70 supervised steps.
    short = ("stages.form.steps=60", "stages.habit.steps=10", "stages.grpo.steps=8", "eval.every=70")
    _, after = trained(tmp_path, "vision/ui_s1_tiny", *short, "data.eval_prompts_count=80")
    assert after["eval/ui_s1.match"] > after_step(tmp_path, 70)["eval/ui_s1.match"] + 0.05
    assert after["eval/ui_s1.progress"] == pytest.approx(after["eval/ui_s1.match"])  # all steps of all episodes


def test_mixed_r1_learns_each_task_by_its_own_reward(tmp_path: Path):
    before, after = trained(tmp_path, "vision/mixed_r1_tiny", "stages.grpo.steps=20")
    for style, gain in (("think", 0.1), ("satori", 0.08)):
        name = f"eval/compose.dispatch/{style}"
        assert after[name] > before[name] + gain


def test_spatial_questions_are_learned_by_lora(tmp_path: Path):
    before, after = trained(tmp_path, "vision/spatial_sat_tiny", "stages.grpo.steps=30")
    assert after["eval/exact.match"] > before["eval/exact.match"] + 0.1


def test_propa_learns_from_trees(tmp_path: Path):
    before, after = trained(tmp_path, "vision/propa_tiny", "stages.grpo.steps=12")
    assert after["eval/exact.match"] > before["eval/exact.match"] + 0.08


def test_spine_learns_without_labels(tmp_path: Path):
    before, after = trained(tmp_path, "vision/spine_tiny", "stages.grpo.steps=25")
    assert after["eval/exact.match"] > before["eval/exact.match"] + 0.04


def test_timemaster_learns_series_in_two_stages(tmp_path: Path):
    """The supervised stage makes a third right or more; what comes of it is the whole run's."""
    short = ("stages.cold-start.steps=110", "stages.habit.steps=1", "stages.grpo.steps=2")
    before, after = trained(tmp_path, "vision/timemaster_tiny", *short)
    assert before["eval/exact.match"] < 0.05  # the form is new
    assert after["eval/exact.match"] > 0.33  # a quarter is chance
