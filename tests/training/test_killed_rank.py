"""A process of two is killed at twenty moments: the other ends in time, and the run that goes on is the whole one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sharded_cases
import yaml
from divided import Runs, merged
from saved import files

HERE = Path(__file__).parent
TIMEOUT = 60  # seconds of the runs

REWARDS = "def letters(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n"
SIZES = {"kind": "qwen3", "context": 64, "hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1}
# What is trained -> (overrides, how many moments, only those at which a checkpoint is written). roles: a case of
# sharded_cases.py, whose policy, fake score, slow copies and rewards' own updates are divided.
KINDS = {
    "whole weights": ({}, 20, ""),
    "divided weights": ({"sharding": {"shards": 2}}, 20, ""),
    "divided weights, while they are saved": ({"sharding": {"shards": 2}}, 20, "saving"),
    "divided weights, saved in the background": (
        {"sharding": {"shards": 2}, "checkpoint": {"every": 1, "background": True}},
        20,
        "saving",
    ),
    "divided roles": ({"roles": "flash"}, 6, ""),
    "divided roles, while they are saved": ({"roles": "tdm"}, 4, "saving"),
}


def of_roles(place: Path, case: str) -> dict:
    """Three steps of a distill stage, a checkpoint behind each."""
    made = {**sharded_cases.ALL[case](Runs(place)), "sharding": {"shards": 2}, "timeout": TIMEOUT}
    return {**made, "checkpoint": {"every": 1}, "stages": [merged(made["stages"][0], {"steps": 3})]}


def config(place: Path, overrides: dict) -> dict:
    """Three steps of two updates, with a reference and averaged weights; a checkpoint behind each.

    On Answers, or on a small language model where weights are divided."""
    (place / "rewards.py").write_text(REWARDS, encoding="utf-8")
    lines = [json.dumps({"id": str(i), "prompt": "x" * i}) for i in range(1, 9)]
    (place / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    stage = {"kind": "grpo", "steps": 3, "groups": 4, "samples": 4, "updates": 2, "micro_batch": 20}
    optim = {"lr": 0.05, "ema": 0.5}
    model: dict = {"modality": f"{HERE / 'answers.py'}:Answers"}
    if "sharding" in overrides:
        built = {"path": "built", "build": SIZES, "chat": "off", "sampling": {"max_tokens": 5}}
        model, stage = {"modality": "text", "model": built}, {**stage, "micro_batch": 60}
    return {
        "out": str(place / "runs"),
        "device": "cpu",
        "threads": 1,
        "timeout": TIMEOUT,
        **model,
        "data": {"prompts": str(place / "prompts.jsonl")},
        "rewards": [{"name": f"{place / 'rewards.py'}:letters"}],
        "stages": [{**stage, "optim": optim, "algorithm": {"preset": "grpo", "kl_coef": 0.1}}],
        "checkpoint": {"every": 1},
        "report": {"samples_every": 1},
        **overrides,
    }


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def killed(request, tmp_path, helpers):
    """(the folder, what killing.py says, line by line)."""
    overrides, moments, saving = KINDS[request.param]
    made = of_roles(tmp_path, overrides["roles"]) if "roles" in overrides else config(tmp_path, overrides)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
    words = [str(tmp_path), str(moments), *([saving] if saving else [])]
    process = helpers.command(str(HERE / "killing.py"), *words, cwd=HERE)
    out, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err[-3000:]
    return tmp_path, [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def left(place: Path, name: str) -> tuple:
    """Weights, moments, averages; rows without their times."""
    run = place / "runs" / name
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]
    return files(run / "checkpoints" / "latest"), rows


@pytest.mark.timeout(1800)
def test_a_killed_process_ends_the_other_and_the_run_goes_on_to_the_same_weights(killed):
    place, ([whole, *others]) = killed
    assert whole == {"whole": [0, 0]}
    wanted = left(place, "whole")
    assert wanted[0] and len(wanted[1]) == 3
    for one in others:
        codes, rank = one["codes"], one["rank"]
        # At its last moments the other may be done already.
        assert codes[rank] == -9 and codes[1 - rank] in (1, 0), one
        assert one["lag"] < TIMEOUT, one
        assert one["after"] == [0, 0], one
        assert left(place, one["name"]) == wanted, one
    named = [f"lost process {one['rank']} (pid " in one["said"] for one in others if one["codes"][1 - one["rank"]] == 1]
    assert named and all(named), others
    assert {one["saved"] for one in others} == {True, False}
