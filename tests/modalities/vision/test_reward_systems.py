"""The configs of judges really train: a step of each stage on a tiny model of the class, with records by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from one_layer import ONE_LAYER

from mmrl import api
from mmrl.config import load

TINY = {
    "path": "built",
    "dtype": "float32",
    "gradient_checkpointing": False,
    "build": {"kind": "qwen2_5_vl", **ONE_LAYER, "context": 4000},
}


@pytest.fixture
def train(tmp_path: Path, drawn: Callable[..., Any]) -> Callable[..., list[dict[str, Any]]]:
    """train(name, files of records, *overrides) -> rows of metrics. Every picture that they name is there."""

    def run(name: str, files: dict[str, list[dict[str, Any]]], *overrides: str) -> list[dict[str, Any]]:
        for file, rows in files.items():
            text = "".join(json.dumps({"id": str(n), **row}) + "\n" for n, row in enumerate(rows))
            (tmp_path / file).write_text(text, encoding="utf-8")
        for number in range(3):
            drawn(number).save(tmp_path / f"{number}.png")
        changes = [f"model.{key}={json.dumps(value)}" for key, value in TINY.items()]
        places = [f"out={tmp_path / 'runs'}", "name=run", "device=cpu", "threads=1"]
        config = load(name, [*changes, *places, *(change.replace("DIR", str(tmp_path)) for change in overrides)])
        api.train(config, fresh=True, quiet=True)
        lines = (tmp_path / "runs" / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    return run


def pair(better: int, **more: Any) -> dict[str, Any]:
    shares = [float(better == n) for n in range(2)]
    question = {"prompt": "<image>What is this?", "images": ["0.png"]}
    return {**question, "candidates": ["a box", {"answer": "this:", "images": ["1.png"]}], "shares": shares, **more}


def test_r1_reward_trains_in_both_stages(train):
    thought = "<think>Response 2 is better.</think><answer>2</answer>"
    files = {
        "pairs.jsonl": [pair(n % 2, attempts=1 + n % 4) for n in range(16)],
        "held.jsonl": [pair(0), pair(1)],
        "thoughts.jsonl": [pair(n % 2, completion=thought, order=[n % 2, 1 - n % 2]) for n in range(4)],
    }
    rows = train(
        "reward/r1_reward",
        files,
        "data.prompts=DIR/pairs.jsonl",
        "data.eval_prompts=DIR/held.jsonl",
        "data.records=DIR/thoughts.jsonl",
        "model.sampling.max_tokens=4",
        "stages.cold-start.steps=1",
        "stages.cold-start.batch=4",
        "stages.stable-reinforce.steps=1",
        "stages.stable-reinforce.groups=8",
    )
    cold, hot = rows
    assert cold["grad_norm"] > 0 and hot["reward/mean"] == 0.0
    assert {name for name in hot if name.startswith("reward/verdict")} >= {"reward/verdict.right"}


def test_paco_reward_trains(train):
    rows = train(
        "reward/paco_reward",
        {
            "pictures.jsonl": [
                {"prompt": "<image><image>Same?", "images": ["0.png", f"{n}.png"], "completion": words}
                for n, words in ((0, "Yes. The same."), (1, "No. Another."))
            ]
        },
        "data.records=DIR/pictures.jsonl",
        "stages.0.steps=1",
        "stages.0.batch=2",
    )
    assert rows[0]["grad_norm"] > 0
