"""A row of metrics says what a step was, into however many updates, epochs and micro-batches it was cut."""

from __future__ import annotations

import json

import pytest
from able import able, rewards, values

from mmrl.config import DataConfig
from mmrl.data.records import Records
from mmrl.rewarding import LoadedReward, score_groups, win_rate
from mmrl.training.processes import Processes
from mmrl.training.stages.rows import pair_row
from mmrl.types import Group, Prompt, Sample

# Rewards as they are, since a group's normalised ones add up to a loss of 0.
ALGORITHM = {"advantage": "none", "kl_coef": 0.1, "terms": [{"name": "entropy", "coef": 0.1}]}
# What the cut does change: a norm is of one update, and a share of unequal parts is not the mean of their shares.
OF_UPDATES = {"grad_norm", "rollout/ess"}


@pytest.mark.parametrize(
    "cut", [{"updates": 2}, {"epochs": 2}, {"updates": 4, "epochs": 3}, {"micro_batch": 5}], ids=json.dumps
)
def test_the_cut_of_a_step_leaves_its_row(tmp_path, cut):
    """Were the loss a sum over updates, it would be twelve times as large. The policy hardly moves."""
    (tmp_path / "one.jsonl").write_text('{"prompt": "xx", "completion": "ab"}\n')
    records = Records(DataConfig(records=str(tmp_path / "one.jsonl")), ("completion",))
    stage = {"algorithm": ALGORITHM, "optim": {"lr": 1e-9}, "expert": {"batch": 2, "peak": 0.5, "valley": 0.5}}
    data = {"prompts": "unused.txt", "records": str(tmp_path / "one.jsonl")}

    def rows(name, **options):
        config = values(tmp_path, {**stage, **options}, name=name, data=data, rewards=rewards(tmp_path, "process"))
        loop = able(config, records=records)
        loop.train()
        return [{k: v for k, v in row.items() if not k.startswith(("time/", "stage"))} for row in loop.rows]

    for whole, found in zip(rows("whole"), rows("cut", **cut), strict=True):
        assert {
            "loss",
            "expert/loss",
            "kl",
            "entropy",
            "term/entropy",
            "clip/high",
            "rollout/k1",
            "reward/mean",
        } <= whole.keys()
        assert abs(whole["loss"]) > 0.01 < abs(whole["expert/loss"])
        assert found.keys() == whole.keys()
        for name in whole.keys() - OF_UPDATES:
            assert found[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-7), name


def test_a_reward_that_compares_tells_of_its_pairs_and_another_of_none():
    """Three samples: one pair failed, one in which the judge names what is shown first, one in which it is right."""
    prompt = Prompt("p", "which?")
    group = Group(prompt, 0, [Sample(prompt, n, "a" * n) for n in range(3)])

    def judge(a, b):
        if {a.index, b.index} == {0, 1}:
            raise TimeoutError("no answer")
        return 1.0 if {a.index, b.index} == {0, 2} else float(a.index > b.index)

    both, one = (LoadedReward(f"both {b}", win_rate(judge, both_orders=b), group=True) for b in (True, False))
    point = LoadedReward("point", lambda samples: [1.0] * len(samples))
    score_groups([group], [both, one, point])
    row = pair_row([group], [both.name, one.name, "point"], Processes("cpu"))
    first = row.pop("reward/both False/first")  # of two pairs, one judged by the place and one by what is right
    assert first in (0.5, 1.0)
    assert row == pytest.approx(
        {
            "reward/both True/failed": 1 / 3,
            "reward/both True/agreed": 1 / 2,
            "reward/both True/first": 3 / 4,
            "reward/both False/failed": 1 / 3,
        }
    )
