"""Every shipped config parses, plans and survives a round trip; overrides find their place; a typo is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from every import every

from mmrl.config import ConfigError, load
from mmrl.training.plan import plan_text

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))


def test_there_are_configs():
    assert "image/tiny" in SHIPPED


@every("name", SHIPPED)
def test_a_shipped_config_plans(name):
    config = load(name)
    plan = plan_text(config, processes=2)
    for stage in config.stages:
        assert f"{stage.name}: {stage.kind}, {stage.steps} steps" in plan
    assert config.about.strip(), "a shipped config says what it does and where its values come from"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_dumped_config_loads_as_an_equal_one(name, tmp_path):
    config = load(name)
    path = tmp_path / "config.yaml"
    path.write_text(config.dump(), encoding="utf-8")
    again = load(path)
    assert again == config
    assert again.dump() == config.dump()


def test_a_run_is_planned_in_numbers(config):
    """4 x 4 samples of 2 trained actions; an update has 2 groups = 8 samples, 6 of which fit 12 evaluations."""
    changes = ["model.sampling.steps=3", "stages.0.micro_batch=12"]
    plan = plan_text(load(config("image"), changes))
    assert "4 prompts x 4 samples = 16 samples a step" in plan
    assert "2 optimizer steps per rollout, each on 2 groups = 8 samples" in plan
    assert "2 trained actions a sample: 32 a step" in plan
    assert "micro-batches of 12 evaluations (6 samples), 2 per update" in plan


def test_a_plan_tells_of_conversations_and_trees():
    plan = plan_text(load("vision/visionthink"))
    assert "environment: visionthink (factor 2.0, max_calls 1, min_pixels 262144, max_pixels 4194304)\n" in plan
    plan = plan_text(load("vision/propa"))
    assert "environment: single (ask Reason step by step, with an empty line ...)\n" in plan
    assert "40 prompts, each a tree of 10 iterations x 4 steps of at most 256 tokens, 8 deep" in plan
    assert "1 optimizer steps per rollout, together on at most 400 groups of 4 steps" in plan


@every("preset", ["grpo", "dapo"])
@every("value", [True, False])
def test_a_plan_tells_where_groups_without_signal_leave_the_denominators(config, preset, value):
    algorithm = {"preset": preset, "drop_zero_variance": value}
    plan = plan_text(load(config(), [("stages.grpo.algorithm", algorithm)]))
    assert ("groups without signal leave the batch (drop_zero_variance)\n" in plan) == value


@pytest.fixture
def staged(config):
    """A config with stages warm (sft), grpo and last (grpo)."""
    values = config(stages=("sft", "grpo", "grpo"))
    values["stages"][0]["name"], values["stages"][2]["name"] = "warm", "last"
    return values


@pytest.mark.parametrize("word", ["last", "2"])
def test_overrides_name_a_stage_by_name_or_place(staged, word):
    made = load(staged, [f"stages.{word}.steps=7", f"stages.{word}.optim.lr=1e-5", "seed=3"])
    assert [stage.steps for stage in made.stages] == [2, 2, 7]
    assert [stage.optim.lr for stage in made.stages] == [1e-4, 1e-4, 1e-5]
    assert made.seed == 3


def test_the_last_override_counts(config):
    assert load(config(), ["seed=1", ("seed", 2), "seed=3"]).seed == 3


def test_an_override_leaves_the_callers_mapping_alone(staged):
    before = yaml.safe_dump(staged)
    load(staged, ["stages.grpo.steps=9", "model.sampling.max_tokens=9", "data.where={a: 1}"])
    assert yaml.safe_dump(staged) == before


def test_an_override_makes_a_section_where_there_is_none(config):
    values = config(environment=None)
    assert load(values, ["environment.name=single"]).environment == {"name": "single"}


def test_an_unknown_stage_names_those_that_are_there(staged):
    with pytest.raises(ConfigError, match=r"'lsat'.*'last'"):
        load(staged, ["stages.lsat.steps=1"])


def test_stages_need_names_of_their_own(config):
    with pytest.raises(ConfigError, match="different names"):
        load(config(stages=("grpo", "grpo")))


# section (as a path into the config), a typo, the key that was meant.
TYPOS = [
    ("", "nmae", "name"),
    ("model", "pahth", "path"),
    ("model.sampling", "temprature", "temperature"),
    ("model.evaluation", "max_token", "max_tokens"),
    ("model.engine", "tolerence", "tolerance"),
    ("model.lora", "rnak", "rank"),
    ("data", "on_bad_records", "on_bad_record"),
    ("rewards.0", "wieght", "weight"),
    ("stages.warm", "bacth", "batch"),
    ("stages.warm.optim", "beta", "betas"),
    ("stages.grpo", "rollout_chunks", "rollout_chunk"),
    ("stages.grpo.optim", "max_grad_nrom", "max_grad_norm"),
    ("stages.grpo.algorithm", "kl_coeff", "kl_coef"),
    ("eval", "evry", "every"),
    ("checkpoint", "kepe", "keep"),
    ("report", "sample_every", "samples_every"),
]


@pytest.mark.parametrize(("section", "typo", "meant"), TYPOS)
def test_a_typo_in_any_section_is_refused_with_the_nearest_key(staged, section, typo, meant):
    with pytest.raises(ConfigError) as caught:
        load(staged, [f"{section}.{typo}=1".lstrip(".")])
    message = str(caught.value)
    assert typo in message
    assert f"did you mean {meant!r}" in message
    assert len(message.splitlines()) == 1


def test_every_problem_is_told_at_once(config):
    with pytest.raises(ConfigError) as caught:
        load(config(), ["sede=1", "stages.grpo.steps=-1", "checkpoint.kep=1"])
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in sorted(lines)] == ["checkpoint.kep", "sede", "stages.0.steps"]
