"""A filter stage that searches trees: the values of its steps, and the reward model that learns from them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from able import Able, able
from able import __file__ as ABLE
from answers import LETTERS, Answers, AnswersConfig, make

from mmrl.api import train
from mmrl.modalities.adapter import Unsupported
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.types import Prompt

REWARD = """
def first(samples):
    return [float(s.artifact.startswith("a")) for s in samples]

def none(samples):
    return [None if s.artifact.startswith("a") else 0.0 for s in samples]

def broken(samples):
    return [float("nan") for s in samples]
"""
PROMPTS = [Prompt(f"p{i}", "x" * (1 + i), {"prompt": "x" * (1 + i), "level": i}) for i in range(6)]
TREE = {"iterations": 6, "children": 4, "depth": 8, "step_end": "b", "step_tokens": 3}


def config(tmp_path: Path, *stages: dict[str, Any], reward: str = "first", **tree: Any) -> dict[str, Any]:
    (tmp_path / "mine.py").write_text(REWARD, encoding="utf-8")
    search = {"kind": "filter", "rule": "steps", "steps": 2, "groups": 3, "tree": {**TREE, **tree}}
    return {
        "out": str(tmp_path),
        "data": {"prompts": "given"},
        "rewards": [{"name": f"{tmp_path / 'mine.py'}:{reward}"}],
        "stages": [search, *stages],
    }


def ending() -> Able:
    """An adapter whose answers have a letter; behind it the likeliest one is the end, so that a greedy answer ends."""
    adapter = Able(AnswersConfig())
    with torch.no_grad():
        adapter.table.copy_(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)).clamp(-0.5, 0.5))
        adapter.table[:, :, LETTERS.index(".")] = 0.6
        adapter.table[:, 4, LETTERS.index(".")] = -90.0  # at the beginning of an answer
    return adapter


def records(tmp_path: Path, stage: str = "filter") -> list[dict[str, Any]]:
    text = (tmp_path / "run" / "data" / f"{stage}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_step_is_worth_what_its_answers_come_to(tmp_path):
    """The reward is for the first letter, and every answer ends: so is the value of each step behind it."""
    loop = able(config(tmp_path), PROMPTS, adapter=ending())
    loop.train()
    found = records(tmp_path)
    assert {r["id"].partition("/")[0] for r in found} == {p.id for p in PROMPTS}
    assert len({r["id"] for r in found}) == len(found)
    values = []
    for record in found:
        question = PROMPTS[int(record["id"][1])]
        assert (record["prompt"], record["level"]) == (question.text, question.record["level"])
        assert all(record["steps"]) and len(record["steps"]) == len(record["values"]) <= TREE["depth"]
        assert all(len(s) <= 3 and "b" not in s[:-1] and "." not in s for s in record["steps"])
        worth = float(record["steps"][0].startswith("a"))
        assert set(record["values"]) <= {None, worth} and set(record["values"]) != {None}
        values.append(worth)
    assert {0.0, 1.0} == set(values)
    assert any(len(r["steps"]) > 1 for r in found) and any(None in r["values"] for r in found)
    first, second = loop.rows
    assert first["filter/prompts"] + second["filter/prompts"] == 6
    assert first["filter/kept"] + second["filter/kept"] == len(found)
    assert 0 < first["filter/finished"] <= 1 and "reward/invalid" not in first
    assert first["reward/mean"] == first["filter/correct"]  # rewards are 0 and 1


def test_a_reward_model_learns_the_values_that_the_file_has(tmp_path):
    tune = {
        "kind": "reward_model",
        "rows": "steps",
        "objective": "mse",
        "steps": 30,
        "batch": 16,
        "data_from": "filter",
    }
    loop = able(config(tmp_path, {**tune, "optim": {"lr": 0.05, "weight_decay": 0.0}}), PROMPTS, adapter=ending())
    loop.train()
    learned = [(r.id, r.steps, tuple(None if math.isnan(v) else v for v in r.values)) for r in loop.stage.records]
    assert learned == [(r["id"], tuple(r["steps"]), tuple(r["values"])) for r in records(tmp_path)]
    losses = [row["loss"] for row in loop.rows if row["stage"] == "reward_model"]
    assert losses[-1] < losses[0] / 2


def test_trees_that_nothing_ends_are_told(tmp_path):
    adapter = Able(AnswersConfig())
    with torch.no_grad():
        adapter.table[:, :, LETTERS.index(".")] = -90.0
    loop = able(config(tmp_path, depth=2), PROMPTS, adapter=adapter)
    with pytest.warns(UserWarning, match=r"no path of step 1 is finished.*tree\.depth"):
        loop.train()
    assert {v for r in records(tmp_path) for v in r["values"]} <= {None, 0.0}
    assert loop.rows[0]["filter/finished"] == 0 and loop.rows[0]["reward/mean"] is None


@pytest.mark.parametrize("reward", ["none", "broken"])
def test_a_value_is_never_guessed(tmp_path, reward):
    with pytest.raises(RewardFailure, match="a finished path of prompt 'p"):
        able(config(tmp_path, reward=reward), PROMPTS, adapter=ending()).train()
    assert not (tmp_path / "run" / "data" / "filter.jsonl").exists()


def test_an_adapter_without_single_steps_says_so(tmp_path):
    with pytest.raises(Unsupported, match="next_steps"):
        make(config(tmp_path), PROMPTS, adapter=Answers(AnswersConfig())).train()


def test_rounds_of_searching_and_scoring_alternate_in_a_whole_run(tmp_path):
    """The second round's trees are of the policy that the first round's scores have changed."""
    lines = [json.dumps({"id": p.id, "prompt": p.text}) + "\n" for p in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    values = config(tmp_path)
    (search,) = values["stages"]
    scored = {"kind": "reward_model", "rows": "steps", "objective": "mse", "steps": 4, "batch": 8, "optim": {"lr": 0.1}}
    rounds = [
        stage
        for number in "12"
        for stage in (
            {**search, "name": f"trees-{number}"},
            {**scored, "name": f"score-{number}", "data_from": f"trees-{number}"},
        )
    ]
    values |= {"stages": rounds, "modality": f"{ABLE}:Able", "device": "cpu", "name": "run"}
    values["data"]["prompts"] = str(tmp_path / "prompts.jsonl")
    summary = train(values, quiet=True)
    assert summary["steps"] == 2 * (2 + 4)
    one, two = (records(tmp_path, f"trees-{number}") for number in "12")
    assert {r["prompt"] for r in one + two} <= {p.text for p in PROMPTS}
    assert [(r["steps"], r["values"]) for r in one] != [(r["steps"], r["values"]) for r in two]
    text = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [row for row in map(json.loads, text.splitlines()) if "stage" in row]
    assert [row["stage"] for row in rows] == [s["name"] for s in rounds for _ in range(s["steps"])]
    assert all(math.isfinite(row["values/error"]) for row in rows if row["stage"].startswith("score"))
