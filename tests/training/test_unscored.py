"""Rewards that say nothing: a monitor's failures are counted and harmless; a run without any reward stops at once."""

from __future__ import annotations

import pytest
import torch
from able import PROMPTS, able, values
from answers import ranks

from mmrl.training.rollouts.sampling import RewardFailure

REWARDS = """
def good(samples):
    return [s.artifact.count("a") / 5 for s in samples]

def fails(samples):
    raise OSError("no judge")

def some(samples):
    return [0.5 if s.index % 2 else float("nan") for s in samples]

def none(samples):
    return [None] * len(samples)
"""
TREE = {"iterations": 2, "children": 3, "depth": 3, "step_end": "b", "step_tokens": 3}
FILTER = {"kind": "filter", "rule": "difficulty", "steps": 1, "low": 0, "high": 1}


@pytest.fixture
def config(tmp_path):
    """config(stage, *(reward, weight), ...) -> a run's config."""
    (tmp_path / "say.py").write_text(REWARDS)

    def make_config(stage, *weighted, name="run", **options):
        rewards = [{"name": f"{tmp_path / 'say.py'}:{r}", "alias": r, "weight": w} for r, w in weighted]
        return values(tmp_path, stage, name=name, rewards=rewards, **options)

    return make_config


# ------------------------------------------------------------------ monitors


@pytest.mark.parametrize(("monitor", "share"), [("fails", 1.0), ("some", 0.5), ("none", 0.0)])
@pytest.mark.parametrize("stage", [{}, {"refill": 2}, {"curriculum": {"retire_at": 0.9}}])
def test_a_monitor_changes_nothing_and_its_failures_are_counted(config, monitor, share, stage):
    bare = able(config(stage, ("good", 1.0), name="bare"))
    bare.train()
    watched = able(config({**stage, "max_invalid": 0.0}, ("good", 1.0), (monitor, 0.0)))
    watched.train()
    assert torch.equal(watched.adapter.table, bare.adapter.table)
    for one, other in zip(watched.rows, bare.rows, strict=True):
        assert one[f"reward/{monitor}/invalid"] == share
        same = {k: v for k, v in one.items() if not k.startswith((f"reward/{monitor}", "time/"))}
        assert same == {k: v for k, v in other.items() if not k.startswith("time/")}
    assert "reward/good/invalid" not in bare.rows[0]


def test_two_processes_count_together(config):
    stage = {"groups": 3}
    for rows in ranks(
        lambda p: (r := able(config(stage, ("good", 1.0), ("some", 0.0)), processes=p), r.train(), r.rows)[2]
    ):
        assert [row["reward/some/invalid"] for row in rows] == [0.5, 0.5]


def test_a_filter_looks_at_one_reward_and_the_others_are_monitors(config, tmp_path):
    stage = {**FILTER, "groups": 4, "reward": "good", "max_invalid": 0.0}
    loop = able(config(stage, ("fails", 1.0), ("good", 0.0)))
    loop.train()
    assert loop.rows[0]["reward/fails/invalid"] == 1.0
    assert loop.rows[0]["reward/invalid"] == 0.0
    assert len((tmp_path / "run" / "data" / "filter.jsonl").read_text().splitlines()) == 4


# ------------------------------------------------------------------ nothing at all


@pytest.mark.parametrize("stage", [{}, {"refill": 3}, {"staleness": 1}, {"tree": TREE}, FILTER], ids=str)
@pytest.mark.parametrize(
    ("weighted", "told"),
    [
        ([("none", 1.0)], "not applicable"),
        ([("fails", 1.0)], "OSError: no judge"),
        ([("none", 1.0), ("good", 0.0)], "not applicable"),
    ],
)
def test_a_step_without_any_reward_stops_the_run(config, stage, weighted, told):
    """One line; nothing is trained, and nothing is called 0."""
    whole = {} if "tree" in stage else {"max_invalid": 1.0}
    loop = able(config({**stage, **whole}, *weighted))
    with pytest.raises(RewardFailure, match=told) as failed:
        loop.train()
    assert "\n" not in str(failed.value)
    assert loop.rows == []
    assert torch.equal(loop.adapter.table, loop.adapter.start)


def test_an_evaluation_without_any_score_stops_a_run_before_it_trains_and_is_told_later(config, tmp_path):
    """Later there is a policy to keep: its scores are not known, and that is said."""
    held = {"data": {"prompts": "unused.txt", "eval_prompts": "unused.txt"}}
    of = {"name": f"{tmp_path / 'say.py'}:none", "alias": "none"}
    stopped = able(config({}, ("good", 1.0), **held, eval={"rewards": [of]}), eval_prompts=PROMPTS[:2])
    with pytest.raises(RewardFailure, match="no sample of the evaluation has a score: not applicable; mend"):
        stopped.train()
    assert torch.equal(stopped.adapter.table, stopped.adapter.start)

    (tmp_path / "late.py").write_text(
        "calls = []\ndef late(samples):\n    calls.append(1)\n"
        "    return [1.0 if len(calls) < 3 else None for s in samples]\n"
    )
    of = {"name": f"{tmp_path / 'late.py'}:late", "alias": "late"}
    late = able(config({}, ("good", 1.0), name="late", **held, eval={"rewards": [of]}), eval_prompts=PROMPTS[:2])
    with pytest.warns(UserWarning, match="no sample of the evaluation has a score"):
        summary = late.train()
    assert summary["before"] == {"eval/late": 1.0}
    assert str(summary["after"]["eval/late"]) == "nan"
