"""Options in another order each time that a question is asked: told with the samples, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from answers import make

from mmrl.config import ConfigError, DataConfig
from mmrl.data.choices import ORDER, in_order, options_of
from mmrl.reporting.report import write_report
from mmrl.reporting.sample_records import read_step
from mmrl.training.assemble import load_prompts
from mmrl.training.stopping import Stopped
from mmrl.types import Prompt

REWARD = """
def first(samples):  # what is right is said by the prompt that was asked
    return [float(s.artifact.startswith(s.prompt.record["answer"].lower())) for s in samples]
"""
PROMPTS = [
    Prompt(f"q{i}", f"Which{'?' * i} A. one B. two C. six", {"answer": "A", "choices": ["one", "two", "six"]})
    for i in range(4)
]
STAGE = {"kind": "grpo", "steps": 6, "groups": 4, "samples": 4, "staleness": 1, "optim": {"lr": 0.05}}


@pytest.fixture
def values(tmp_path: Path):
    """values(run's name, stage, ...) of a config on three-option questions, whose options are shuffled."""
    (tmp_path / "score.py").write_text(REWARD)

    def of(name: str, stage: dict = STAGE, **data) -> dict:
        return {
            "out": str(tmp_path),
            "name": name,
            "data": {"prompts": "given", "shuffle_options": True, **data},
            "rewards": [{"name": f"{tmp_path / 'score.py'}:first"}],
            "stages": [stage],
            "report": {"samples_every": 1, "groups": 4},
            "checkpoint": {"every": 1},
        }

    return of


def shown(folder: Path) -> list[tuple[str, list[int]]]:
    """(id, order) of every stored group, which the text that was asked agrees with."""
    found = []
    for place in sorted((folder / "samples").glob("step_*")):
        for group in read_step(folder, place.name)[0]:
            order = group.prompt.record[ORDER]
            assert options_of(group.prompt) == [["one", "two", "six"][k] for k in order]
            found.append((group.prompt.id, order))
    return found


def test_each_time_that_it_is_asked_a_question_has_its_options_in_another_order(tmp_path, values):
    loop = make(values("run"), PROMPTS)
    loop.train()
    asked = shown(tmp_path / "run")
    assert len(asked) == 24
    orders = {id_: {tuple(order) for name, order in asked if name == id_} for id_, _ in asked}
    assert set(orders) == {p.id for p in PROMPTS} and all(len(some) > 1 for some in orders.values())
    assert len(set().union(*orders.values())) == 6  # of three options there are six orders
    page = write_report(tmp_path / "run").read_text()
    assert "options as shown: " + " ".join("ABC"[k] for k in asked[0][1]) in page


def test_a_stopped_run_asks_in_the_orders_of_the_one_that_was_never_stopped(tmp_path, values):
    """Rollouts that wait in the checkpoint get back the order that they were asked in."""
    straight = make(values("straight"), PROMPTS)
    straight.train()
    stops = 0
    while True:
        passed: list[str] = []

        def at(place: str, passed=passed) -> bool:
            passed.append(place)
            return place in ("rollout", "step") and len(passed) > 1

        resumed = make(values("cut"), PROMPTS, should_stop=at)
        try:
            resumed.train(resume=stops > 0)
            break
        except Stopped:
            stops += 1
    assert stops >= 5
    assert shown(tmp_path / "cut") == shown(tmp_path / "straight")
    assert torch.equal(resumed.adapter.table, straight.adapter.table)


def test_a_filter_keeps_the_question_as_it_was_asked(tmp_path, values):
    stage = {"kind": "filter", "steps": 1, "groups": 4, "samples": 3, "rule": "difficulty", "low": 0, "high": 1}
    make(values("run", stage), PROMPTS).train()
    kept = [json.loads(line) for line in (tmp_path / "run/data/filter.jsonl").read_text().splitlines()]
    assert len(kept) == 4
    for record in kept:
        source = next(p for p in PROMPTS if p.id == record["id"])
        asked = in_order(source, record[ORDER])
        assert (record["prompt"], record["answer"]) == (asked.text, asked.record["answer"])


def test_prompts_without_options_are_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "bare.jsonl").write_text(json.dumps({"prompt": "Which?", "answer": "x"}) + "\n")

    class Config:
        data = DataConfig(prompts=str(tmp_path / "bare.jsonl"), shuffle_options=True)
        prompts_looked_at = None

    class Adapter:
        prompt_columns = staticmethod(list)
        usable = staticmethod(lambda prompt: None)

    with pytest.raises(ConfigError, match=r"data\.shuffle_options: none of 1 prompts"):
        load_prompts(Config, Adapter)
