"""`mmrl train RUN_FOLDER --resume`: from the command line, with more steps, from where the folder was moved to."""

from __future__ import annotations

import json
from contextlib import nullcontext

import answers
import pytest
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

import mmrl
from mmrl.cli import cli
from mmrl.config import load
from mmrl.training.run_folder import released
from mmrl.training.stopping import Stopped
from mmrl.training.tensors import CheckpointError


@pytest.fixture
def config(tmp_path):
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")
    (tmp_path / "prompts.txt").write_text("".join(f"{'x' * n}\n" for n in range(1, 9)))
    return {
        "name": "run",
        "out": str(tmp_path / "runs"),
        "device": "cpu",
        "modality": f"{answers.__file__}:Answers",
        "data": {"prompts": str(tmp_path / "prompts.txt")},
        "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
        "stages": [{"kind": "grpo", "steps": 3, "groups": 4, "samples": 4, "micro_batch": 20, "optim": {"lr": 0.05}}],
    }


def go_on(folder, *words: str):
    with released(folder):
        return CliRunner().invoke(cli, ["train", str(folder), "--resume", *words])


def weights(folder):
    return load_file(folder / "checkpoints" / "latest" / "policy" / "table.safetensors")["table"].tolist()


def steps(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_by_its_folder_also_where_it_was_moved(config, tmp_path):
    straight = {**config, "name": "straight"}
    mmrl.train(straight, quiet=True)
    runs = tmp_path / "runs"
    with released(runs / "run"), pytest.raises(Stopped):
        mmrl.train(config, quiet=True, should_stop=lambda point: point == "micro")
    (tmp_path / "elsewhere").mkdir()
    moved = (runs / "run").rename(tmp_path / "elsewhere" / "moved")
    result = go_on(moved)
    assert result.exit_code == 0, result.output
    assert f"report: {moved / 'report.html'}" in result.output
    assert weights(moved) == weights(runs / "straight")
    assert steps(moved) == [1, 2, 3]
    assert not (runs / "run").exists()
    assert json.loads((moved / "summary.json").read_text())["steps"] == 3


def test_more_steps_are_recorded_so_that_the_folder_goes_on_with_them(config, tmp_path):
    """S25: a finished run with more steps goes on; stopped in between, its folder knows of them."""
    folder = tmp_path / "runs" / "run"
    longer = {**config, "name": "longer", "stages": [{**config["stages"][0], "steps": 6}]}
    mmrl.train(longer, quiet=True)
    with released(folder):
        mmrl.train(config, quiet=True)
    with released(folder), pytest.raises(Stopped):
        mmrl.train(folder, resume=True, quiet=True, stages__grpo__steps=6, should_stop=lambda point: point == "update")
    assert "# from step 4 on, stages.grpo.steps: 3 -> 6" in (folder / "config.yaml").read_text()
    assert "6 steps" in (folder / "plan.txt").read_text()
    result = go_on(folder)
    assert result.exit_code == 0, result.output
    assert steps(folder) == [1, 2, 3, 4, 5, 6]
    assert weights(folder) == weights(tmp_path / "runs" / "longer")


def test_another_value_is_refused_by_its_key_and_taken_with_allow(config, tmp_path):
    folder = tmp_path / "runs" / "run"
    with released(folder), pytest.raises(Stopped):
        mmrl.train(config, quiet=True, should_stop=lambda point: point == "micro")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = go_on(folder, "stages.grpo.optim.lr=0.1", "seed=3")
    assert isinstance(result.exception, CheckpointError)
    assert "\n  seed: 0 -> 3\n  stages.grpo.optim.lr: 0.05 -> 0.1\n" in str(result.exception)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    result = go_on(folder, "stages.grpo.optim.lr=0.1", "--allow", "stages.grpo.optim.lr")
    assert result.exit_code == 0, result.output
    assert load(folder).stages[0].optim.lr == 0.1
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 0


def test_an_edited_file_of_prompts_is_refused(config, tmp_path):
    folder = tmp_path / "runs" / "run"
    with released(folder), pytest.raises(Stopped):
        mmrl.train(config, quiet=True, should_stop=lambda point: point == "micro")
    (tmp_path / "prompts.txt").write_text("x\nxx\nother\n")
    result = go_on(folder)
    assert isinstance(result.exception, CheckpointError)
    assert "data.prompts: '8 prompts, hash" in str(result.exception)


@pytest.mark.report
@pytest.mark.parametrize("finished", [False, True])
def test_a_resume_may_evaluate_another_reward(config, tmp_path, finished):
    """What that was before training nobody knows: the run ends all the same, and tells what it knows."""
    folder = tmp_path / "runs" / "run"
    (tmp_path / "held.txt").write_text("y\nyy\n")
    config["data"]["eval_prompts"] = str(tmp_path / "held.txt")
    with released(folder), nullcontext() if finished else pytest.raises(Stopped):
        mmrl.train(config, quiet=True, should_stop=lambda point: point == "update" and not finished)
    result = go_on(folder, f"eval.rewards=[{{name: '{tmp_path / 'letters.py'}:a', alias: other}}]")
    assert result.exit_code == 0, result.output
    after = json.loads((folder / "summary.json").read_text())["eval"]["after"]["eval/other"]
    assert f"\neval/other: {after:.3f}\n" in result.output
    assert "other" in (folder / "report.html").read_text(encoding="utf-8")
