"""A wrong value is one line that says what, where, and what is near."""

from __future__ import annotations

import pytest
import torch
from every import every

from mmrl.config import ConfigError, load
from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.library import registries


@every(
    ("overrides", "told"),
    [
        (["stages.grpo.sample=4"], ["stages.0.sample", "unknown key", "'samples'"]),
        (["model.sampling.max_token=4"], ["model.sampling.max_token", "unknown key", "'max_tokens'"]),
        (["sft=1"], ["sft: unknown key", "stages"]),
        (["data.sft=1"], ["data.sft: unknown key"]),
        (["sede=1"], ["sede", "did you mean 'seed'"]),
        (["stages.grpo.groups=many"], ["stages.0.groups", "integer", "'many'"]),
        (["stages.grpo.optim.lr=-1"], ["stages.0.optim.lr", "greater than 0"]),
        (["model.train=lorra"], ["model.train", "'full'", "'lora'", "'lorra'"]),
        (["stages.grpo.groups=5"], ["groups=5", "updates=2", "groups=6"]),
        (["stages.grpo.samples=1"], ["samples=1", "samples=2"]),
        (["rewards=[]"], ["rewards", "'grpo'"]),
        (["data.prompts=null"], ["data.prompts", "'grpo'"]),
        (["stages.grpo.algorithm.clip_hihg=0.2"], ["clip_hihg", "'clip_high'"]),
        (["stages.grpo.algorithm.preset=flow-grpo"], ["flow-grpo", "'flow_grpo'"]),
        (["modality=image", "model.sampling.plan={name: windoww}"], ["windoww", "window"]),
        (["modality=imgae"], ["imgae", "'image'"]),
        (["stages.gpro.steps=1"], ["gpro", "'grpo'"]),
        (["stages.grpo.kind=gprpo"], ["stages.0.kind", "'gprpo'", "'grpo'"]),
        (["stages=[{steps: 1}]"], ["stages.0.kind", "missing", "grpo"]),
        (["stages=grpo"], ["stages", "list", "'grpo'"]),
        (["model=small"], ["model", "mapping"]),
        (["name=a/b"], ["name", "'a/b'", "folder"]),
        (["stages.grpo"], ["expected key.sub=value"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_near(config, overrides, told):
    with pytest.raises(ConfigError) as caught:
        load(config(), overrides)
    for words in told:
        assert words in str(caught.value)


ESTIMATORS = registries()["advantage"]


@every("name", [name for name in ESTIMATORS if name != "zero" and not ESTIMATORS[name].needs])
def test_one_sample_a_group_is_refused_where_an_estimator_would_make_zeros_of_it(config, name):
    groups = Batch(torch.arange(4), 4, torch.ones(4, 2, dtype=torch.bool), logp_old=torch.zeros(4, 2))
    rewards = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    valid = torch.ones(4, 1, dtype=torch.bool)
    advantage, _, _ = estimate(rewards, valid, torch.ones(1), groups, Algorithm(advantage=name))
    words = ["stages.0.samples=1", f"stages.0.algorithm={{advantage: {name}}}"]
    if advantage.any():
        assert load(config(), words).stages[0].samples == 1
    else:
        with pytest.raises(ConfigError, match="samples=1 leaves nothing to compare"):
            load(config(), words)


def test_rewards_that_are_normalised_by_their_group_need_one(config):
    with pytest.raises(ConfigError, match="samples=1 leaves nothing to compare"):
        load(config(), ["stages.0.samples=1", "stages.0.algorithm={combine: gdpo}"])


def test_taming_by_the_spread_of_the_others_needs_others(config):
    with pytest.raises(ConfigError, match="tame compares how much the rewards vary, and 1 has a weight"):
        load(config(), ["stages.0.algorithm={tame: log}"])
    assert load(config(), ["stages.0.algorithm={tame: {name: log, threshold: 0.5}}"])


@pytest.mark.parametrize("section", ["joint", "surrogate"])
def test_so_does_that_of_a_section_of_a_stage(config, section):
    stage = "stages.0={kind: distill, steps: 2, samples: 4, %s: {algorithm: {%s}}}"
    with pytest.raises(ConfigError, match="tame compares how much the rewards vary, and 1 has a weight"):
        load(config(), [stage % (section, "tame: log")])
    assert load(config(), [stage % (section, "tame: {name: log, threshold: 0.5}")])


def test_a_tree_has_no_use_for_a_reward_of_the_whole_answer(config):
    kl = "stages.0.algorithm={kl_coef: 0.1, kl_place: reward, kl_estimator: k1}"
    with pytest.raises(ConfigError, match="kl_place='reward' goes with whole answers"):
        load(config(), ["stages.0.tree={}", "stages.0.samples=8", kl])
