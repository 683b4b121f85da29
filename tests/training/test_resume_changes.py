"""Resuming with other micro-batches in the middle of an update, and with more steps: the same as never stopped."""

from __future__ import annotations

import json

import pytest
import torch
from answers import Answers, make

from mmrl.config import DataConfig
from mmrl.data.records import Records
from mmrl.training.stopping import Stopped
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i)) for i in range(12)]
OPTIM = {"lr": 0.05, "ema": 0.5}
GRPO = {"kind": "grpo", "groups": 4, "samples": 4, "updates": 2, "epochs": 2, "micro_batch": 20}
STAGES = {
    "grpo": GRPO,
    "expert": {**GRPO, "expert": {"batch": 4, "micro_batch": 2, "peak": 0.5, "valley": 0.5}},
    "reference": {**GRPO, "algorithm": {"preset": "grpo", "kl_coef": 0.1}},
    "sft": {"kind": "sft", "batch": 6, "micro_batch": 2},
    "dpo": {"kind": "preference", "batch": 4, "micro_batch": 10},
    "mpo": {"kind": "preference", "batch": 4, "micro_batch": 10, "objective": "mpo"},
}


@pytest.fixture
def run(tmp_path):
    """run(name, stage options, at=point to stop at, resume=) -> (loop, points that were passed)."""
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")
    answers = [("ab", "ba"), ("a", "c"), ("abc", "b"), ("ca", "cb"), ("aa", "bb")]
    lines = [
        json.dumps({"prompt": "x" * n, "completion": a, "chosen": a, "rejected": b})
        for n, (a, b) in enumerate(answers, start=1)
    ]
    given = tmp_path / "given.jsonl"
    given.write_text("\n".join(lines) + "\n")

    def train(name, stage, at=0, resume=False, **options):
        rewards = [{"name": f"{tmp_path / 'letters.py'}:a"}] if stage["kind"] == "grpo" else []
        pairs = {"pairs": str(given)} if stage["kind"] == "preference" else {}
        records = stage["kind"] == "sft" or "expert" in stage
        data = {"prompts": "unused.txt"} if rewards else {}
        data |= {"records": str(given)} if records else {}
        values = {
            "name": name,
            "out": str(tmp_path),
            "data": data,
            "rewards": rewards,
            "stages": [{"name": "only", "steps": 2, "optim": OPTIM, **stage, **pairs}],
            "report": {"samples_every": 0},
        }
        seen: list[str] = []
        records = Records(DataConfig(records=str(given)), ("completion",)) if records else None
        stop = lambda point: len(seen.append(point) or seen) == at  # noqa: E731
        loop = make(values, PROMPTS if rewards else (), should_stop=stop, records=records, **options)
        if at:
            with pytest.raises(Stopped):
                loop.train(resume=resume)
        else:
            loop.train(resume=resume)
        return loop, seen

    return train


def rows(loop) -> list[dict]:
    lines = (loop.run.folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def assert_near(found, wanted):
    """The weights, averages and every number of the metrics, but for rounding."""
    torch.testing.assert_close(found.adapter.table, wanted.adapter.table, rtol=0, atol=1e-6)
    for one, other in zip(rows(found), rows(wanted), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            same = value == other[name] or value == pytest.approx(other[name], rel=1e-5, abs=1e-6)
            assert same, (name, value, other[name])
    assert (found.cursor.samples, found.cursor.actions) == (wanted.cursor.samples, wanted.cursor.actions)


@pytest.mark.parametrize("kind", STAGES)
def test_other_micro_batches_in_the_middle_of_an_update_begin_it_anew(run, kind):
    stage = STAGES[kind]
    straight, points = run("straight", stage)
    inside = [n for n, point in enumerate(points, start=1) if point == "micro"]
    assert len(inside) >= 8 if stage["kind"] == "grpo" else len(inside) >= 4
    for at in inside[1 :: max(1, len(inside) // 2)]:
        for other in (3, 1000):  # smaller and larger than before
            changed = {**stage, "micro_batch": other}
            if "expert" in stage:
                changed["expert"] = {**stage["expert"], "micro_batch": 3}
            run(f"cut_{at}_{other}", stage, at)
            loop, _ = run(f"cut_{at}_{other}", changed, resume=True)
            assert_near(loop, straight)


MORE = {
    **STAGES,
    "curriculum": {**GRPO, "curriculum": {"order": "shuffled", "retire_at": 0.9, "correct_at": 0.4}},
    "refill": {**GRPO, "refill": 3},
    "spam": {**GRPO, "optim": {"lr": 0.05, "ema": 0.5, "name": "spam", "spam_reset_every": 3, "spam_warmup": 2}},
}


@pytest.mark.parametrize("kind", MORE)
def test_more_steps_for_a_finished_run_are_those_of_a_run_that_had_them(run, kind):
    stage = MORE[kind]
    straight, _ = run("straight", {**stage, "steps": 5})
    run("more", {**stage, "steps": 2})
    run("more", {**stage, "steps": 2}, resume=True)  # finished: nothing happens
    run("more", {**stage, "steps": 3}, resume=True)
    loop, _ = run("more", {**stage, "steps": 5}, resume=True)
    assert torch.equal(loop.adapter.table, straight.adapter.table)
    assert rows(loop) == rows(straight)
    for part in ("trainer.safetensors", "policy/table.safetensors"):
        one, other = (x.checkpoints.latest / part for x in (loop, straight))
        assert one.read_bytes() == other.read_bytes()
    assert (loop.cursor.samples, loop.cursor.actions) == (straight.cursor.samples, straight.cursor.actions)


def test_more_steps_of_a_stage_with_staleness_sample_the_seam_anew(run):
    """What the longer run would have sampled for them was not sampled, as no step would have used it."""
    stale = {**GRPO, "staleness": 1}
    run("more", {**stale, "steps": 3})
    loop, _ = run("more", {**stale, "steps": 6}, resume=True)
    assert [row["rollout/age"] for row in rows(loop)] == [0, 1, 1, 0, 1, 1]


def test_more_steps_behind_a_stage_that_finishes_its_adapter(run, monkeypatch):
    """`finish` ran at the first end and runs again at the second, with the weights that it finds then."""
    seen = []
    monkeypatch.setattr(Answers, "finish", lambda self, *_: seen.append(self.table.detach().clone()))
    straight, _ = run("straight", {**STAGES["sft"], "steps": 5})
    run("more", {**STAGES["sft"], "steps": 2})
    loop, _ = run("more", {**STAGES["sft"], "steps": 5}, resume=True)
    assert len(seen) == 3
    assert torch.equal(seen[2], seen[0])
    assert not torch.equal(seen[1], seen[0])
    assert torch.equal(loop.adapter.table, straight.adapter.table)
