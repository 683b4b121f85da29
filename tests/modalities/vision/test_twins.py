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
