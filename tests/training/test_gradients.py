"""The gradient of a training step, for every preset: cutting it and skipping what is silent change nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from able import Able, able, gradients, values
from answers import AnswersConfig

from mmrl.config import ConfigError
from mmrl.core.presets import PRESETS
from mmrl.core.resolving import resolve
from mmrl.training.stages.grpo import Grpo
from mmrl.training.stages.update import gradient, micro_batches, plan_update

NEEDED = {"dr_grpo": {"constant_length": 5}}
each = pytest.mark.parametrize("preset", PRESETS)
OVER_SEQUENCES = {"gspo", "gspo_token", "topr", "rloo", "eapo", "trpa"}


def section(preset, **fields):
    if PRESETS[preset].get("kl_estimator") == "exact" and fields.get("kl_coef"):
        fields["kl_estimator"] = "k3"  # a table of letters has no exact KL to give
    return {"preset": preset, **NEEDED.get(preset, {}), **fields}


@pytest.fixture
def step(tmp_path):
    """step(algorithm, **model) -> (stage, experience) of 12 groups, the policy being elsewhere by now."""

    def make(algorithm, **model):
        config = values(tmp_path, {"groups": 12, "algorithm": algorithm}, model=model)
        loop = able(config, adapter=Able(AnswersConfig(**model)))
        loop.adapter.prepare_reference()
        loop.policy.select(None, "grpo")
        stage = Grpo(loop.run, loop.run.config.stages[0], loop.policy, loop.cursor)
        experience = stage.experience(stage.rollouts.next())
        with torch.no_grad():
            loop.adapter.table.add_(0.3 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(7)))
        return stage, experience

    return make


def gradient_of(stage, experience, micro_batch=10**6):
    adapter = stage.run.adapter
    adapter.table.grad = None
    update = plan_update(experience, stage.algorithm, None, stage.policy_gradient.features, fresh=False)
    for _ in gradient(adapter, update, micro_batches(adapter, update, micro_batch)):
        pass
    return adapter.table.grad.clone()


def everyone(experience):
    """The same, replaying all that counts."""
    return dataclasses.replace(experience, replayed=experience.counted)


# ------------------------------------------------------------------ skipping and denominators


@each
@pytest.mark.parametrize("kl", [0.0, 0.1])
@pytest.mark.parametrize("drop", [False, True])
def test_skipping_what_is_silent_leaves_the_gradient(step, preset, kl, drop):
    if drop and preset == "trpa":
        with pytest.raises(ConfigError, match="drops every group"):
            step(section(preset, kl_coef=kl, drop_zero_variance=drop))
        return
    stage, experience = step(section(preset, kl_coef=kl, drop_zero_variance=drop))
    expected = gradient_of(stage, everyone(experience))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(gradient_of(stage, experience), expected, rtol=1e-9, atol=1e-12)


def test_there_is_something_to_skip(step):
    for preset, kl, skips in [("grpo", 0.0, True), ("grpo", 0.1, False), ("spine", 0.0, False), ("dapo", 0.0, False)]:
        _, experience = step(section(preset, kl_coef=kl))
        assert bool((experience.counted & ~experience.replayed).any()) is skips, preset


@each
def test_a_kl_of_almost_no_weight_leaves_the_gradient_of_a_step(preset, tmp_path, monkeypatch):
    """0.866 against 0.2165, where silent groups left the denominators without a KL alone."""
    seen = gradients(monkeypatch)
    for kl in (0.0, 1e-12):
        stage = {"groups": 12, "steps": 2, "updates": 2, "algorithm": section(preset, kl_coef=kl)}
        able(values(tmp_path, stage, name=f"kl{kl}")).train()
    assert len(seen) == 8 and any(g.any() for g in seen)
    for without, almost in zip(seen[:4], seen[4:]):
        torch.testing.assert_close(almost, without, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_groups_that_are_dropped_leave_denominators_and_kl_and_only_where_it_is_asked(step, kl):
    """Over tokens: the sum of the others' gradients is divided by their actions instead of by all."""
    fields = {"aggregate": "token_mean", "kl_coef": kl}
    stage, kept = step(section("grpo", drop_zero_variance=False, **fields))
    other, dropped = step(section("grpo", drop_zero_variance=True, **fields))
    assert torch.equal(kept.batch.mask, dropped.batch.mask)
    silent = kept.advantage == 0
    assert silent.any() and torch.equal(dropped.counted, ~silent) and kept.counted.all()
    everything, rest = int(kept.batch.mask.sum()), int(kept.batch.mask[~silent].sum())
    loud = dataclasses.replace(kept, counted=~silent, replayed=~silent)  # the same groups, nothing else
    torch.testing.assert_close(gradient_of(other, dropped), gradient_of(stage, loud), rtol=1e-9, atol=1e-12)
    ratio = gradient_of(stage, kept) / gradient_of(other, dropped)
    near = torch.full_like(ratio, rest / everything)
    if kl:  # what was dropped pulls at the policy where it stays in
        assert not torch.allclose(ratio[ratio.isfinite()], near[ratio.isfinite()], rtol=0.01)
    else:
        torch.testing.assert_close(ratio[ratio.isfinite()], near[ratio.isfinite()], rtol=1e-6, atol=0)


# Where the published form leaves groups without signal out: DAPO samples others instead, and what is built on it too;
# ScaleRL, UI-S1 and the release of Flow-GRPO filter.
WITHOUT_SILENT = {"dapo", "top_entropy", "scalerl", "ui_s1", "flow_grpo", "flow_dppo", "temp_flow"}


@each
def test_groups_of_equal_rewards_count_where_the_published_form_has_them(step, preset):
    _, experience = step(section(preset))
    whole = torch.ones_like(experience.counted)
    if "truncated" in PRESETS[preset].get("filters", ()):  # cut-off samples leave before any group is looked at
        whole = ~experience.batch.truncated
        assert not whole.all()
    assert not experience.counted[~whole].any()
    rewards, group, counted = experience.scores[whole, 0], experience.batch.group[whole], experience.counted[whole]
    equal = torch.tensor([len(rewards[group == g].unique()) == 1 for g in group])
    assert equal.any() and not equal.all()
    assert counted[~equal].all()
    assert counted[equal].unique().tolist() == [preset not in WITHOUT_SILENT]


# ------------------------------------------------------------------ micro-batches


@each
def test_micro_batches_of_rows_leave_the_gradient(step, preset):
    stage, experience = step(section(preset))
    whole = gradient_of(stage, experience)
    for budget in (1, 17):
        torch.testing.assert_close(gradient_of(stage, experience, budget), whole, rtol=1e-6, atol=1e-9)


@each
def test_micro_batches_of_columns_leave_the_gradient_or_are_refused(step, preset, monkeypatch):
    """A ratio over a whole sequence, of which a micro-batch holds a part, is another ratio: 59 % off for gspo."""
    stage, experience = step(section(preset))
    whole = gradient_of(stage, experience)
    cut, of_columns = step(section(preset), by_columns=True)
    if preset in OVER_SEQUENCES:
        with pytest.raises(ValueError, match=r"micro_batch is too small: .* the longest has 5, .* holds 1; raise"):
            gradient_of(cut, of_columns, 1)
    else:
        torch.testing.assert_close(gradient_of(cut, of_columns, 1), whole, rtol=1e-6, atol=1e-9)


def test_the_presets_over_sequences_are_those_that_say_so():
    found = {p for p in PRESETS if resolve(p, NEEDED.get(p, {})).ratio != "token"}
    assert found | {"trpa"} == OVER_SEQUENCES


@pytest.mark.parametrize("preset", sorted(OVER_SEQUENCES))
def test_a_run_that_would_cut_sequences_is_refused_before_anything_is_trained(preset, tmp_path):
    stage = {"groups": 12, "micro_batch": 1, "algorithm": section(preset)}
    loop = able(values(tmp_path, stage, model={"by_columns": True}))
    with pytest.raises(ValueError, match="raise the stage's micro_batch"):
        loop.train()
    assert torch.equal(loop.adapter.table, loop.adapter.start)


@pytest.mark.parametrize("preset", ["gspo", "topr"])
def test_pictures_whose_steps_would_be_cut_are_refused_too(tiny, helpers, preset):
    """Two denoising steps of a sample are trained; one at a time the gradient is 59 % (gspo) or 67 % (topr) off."""
    for micro_batch, fits in [(1, False), (2, True)]:
        stage = helpers.grpo(steps=1, micro_batch=micro_batch, algorithm={"preset": preset})
        config = tiny(name=f"by_{micro_batch}", stages=[stage])
        if fits:
            helpers.train(config)
        else:
            with pytest.raises(ConfigError, match="raise the stage's micro_batch"):
                helpers.train(config)
