"""The reference of a language model is the policy where the stage begins; a loss beside it has the right gradient."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch

LORA = {"train": "lora", "lora": {"rank": 2, "alpha": 4}}
POLICIES = {
    "full": {},
    "untied": {"build": {"tied": False}},
    "lora": LORA,
    "lora-untied": {"build": {"tied": False}, **LORA},
    "checkpointing": {"gradient_checkpointing": True},
    "lora-checkpointing": {"gradient_checkpointing": True, **LORA},
    "bfloat16": {"dtype": "bfloat16"},
    "lora-bfloat16": {"dtype": "bfloat16", **LORA},
    "bfloat16-checkpointing": {"dtype": "bfloat16", "gradient_checkpointing": True},
    "bfloat16-fp32-head": {"dtype": "bfloat16", "fp32_head": True},
}
COLUMNS = torch.arange(12)


def shake(policy, size=0.05):
    """As training would: moves every trained number."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=POLICIES.values(), ids=POLICIES)
def policy(request, adapter):
    return adapter(**request.param)


@pytest.fixture
def saved_lora(adapter, tmp_path):
    """A policy whose config starts from LoRA weights that another one wrote after some training."""
    first = adapter(**LORA)
    shake(first)
    first.save(tmp_path / "policy")
    made = type(first)(first.config.at(tmp_path / "policy"))
    for name, parameter in made.trainable_parameters().items():
        assert torch.equal(parameter, first.trainable_parameters()[name])
    return made


def test_after_some_training_the_reference_is_the_policy_bit_for_bit(policy, roll):
    stays_the_policy_of_its_stage(policy, roll(policy))


def test_the_reference_of_a_saved_lora_is_not_the_untrained_base(saved_lora, roll):
    samples = roll(saved_lora)
    saved_lora.prepare_reference()
    found = saved_lora.logprobs(samples, COLUMNS, reference=True)
    assert torch.equal(found.logp_reference, found.logp.detach())
    stays_the_policy_of_its_stage(saved_lora, samples)


def stays_the_policy_of_its_stage(policy, samples):
    """At its first stage and at a second one."""
    for _ in range(2):
        shake(policy)
        policy.prepare_reference()
        found = policy.logprobs(samples, COLUMNS, reference=True)
        start = found.logp.detach()
        assert torch.equal(found.logp_reference, start)
        shake(policy)
        held = {name: p.detach().clone() for name, p in policy.trainable_parameters().items()}
        found = policy.logprobs(samples, COLUMNS, reference=True)
        assert torch.equal(found.logp_reference, start)
        assert (found.logp.detach() - start).abs().max() > 1e-3
        assert all(torch.equal(p, held[name]) for name, p in policy.trainable_parameters().items())
        assert policy.reference_parameters().keys() == held.keys()


def gradients(policy, found):
    """Of a loss that mixes log-probs of the policy with those of the reference."""
    gap = found.logp_reference - found.logp
    loss = (found.logp.exp() + 3 * (gap.exp() - gap - 1)).sum()
    parameters = policy.trainable_parameters()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))


# Torch keeps casts of weights for as long as the outermost autocast lasts, also where that one is off.
AROUND = {
    "alone": contextlib.nullcontext,
    "in-autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "in-one-that-is-off": lambda: torch.autocast("cpu", enabled=False),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_the_gradient_is_that_beside_a_copied_reference_model(policy, roll, around):
    if policy.precision == torch.float32:
        around = contextlib.nullcontext
    samples = roll(policy)
    shake(policy)
    policy.prepare_reference()
    twin = copy.deepcopy(policy)
    shake(policy)
    wanted = policy.logprobs(samples, COLUMNS)
    wanted.logp_reference = twin.logprobs(samples, COLUMNS).logp.detach()
    expected = gradients(policy, wanted)
    with around():
        found = policy.logprobs(samples, COLUMNS, reference=True)  # the policy's graph comes first
        after = policy.logprobs(samples, COLUMNS)
    assert torch.equal(found.logp_reference, wanted.logp_reference)
    after.logp_reference = found.logp_reference
    for made in (found, after):
        for name, gradient in gradients(policy, made).items():
            assert torch.equal(gradient, expected[name]), name
    assert any(bool(g.any()) for g in expected.values())


def test_a_reference_that_was_never_made_is_an_error(adapter, roll):
    policy = adapter()
    with pytest.raises(RuntimeError, match="prepare_reference"):
        policy.logprobs(roll(policy), torch.arange(3), reference=True)


def test_inside_of_a_reference_everything_is_the_reference_and_without_gradient(adapter, roll):
    policy = adapter()
    samples = roll(policy)
    policy.prepare_reference()
    start = policy.logprobs(samples, COLUMNS).logp.detach()
    shake(policy)
    now = policy.logprobs(samples, COLUMNS).logp.detach()
    with policy.reference():
        found = policy.logprobs(samples, COLUMNS, reference=True)
        assert not found.logp.requires_grad
        assert torch.equal(found.logp, start) and torch.equal(found.logp_reference, start)
    assert torch.equal(policy.logprobs(samples, COLUMNS).logp, now)


def test_the_policy_is_back_after_an_error(adapter, roll):
    policy = adapter()
    samples = roll(policy)
    policy.prepare_reference()
    shake(policy)
    now = policy.logprobs(samples, COLUMNS).logp.detach()
    with pytest.raises(ZeroDivisionError), policy.reference():
        raise ZeroDivisionError
    policy.reference_parameters()["gone"] = torch.zeros(3)
    with pytest.raises(KeyError, match="gone"), policy.reference():
        pass
    assert torch.equal(policy.logprobs(samples, COLUMNS).logp, now)


def test_what_an_engine_gets_is_the_policy_and_never_the_reference(adapter, roll):
    from mmrl.modalities.tokens.outside import merged_weights

    policy = adapter(**LORA)
    samples = roll(policy)
    policy.prepare_reference()
    shake(policy)
    before = {name: t.clone() for name, t in merged_weights(policy.model)}
    policy.logprobs(samples, COLUMNS, reference=True)
    after = dict(merged_weights(policy.model))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    with policy.reference():
        assert any(not torch.equal(before[name], t) for name, t in merged_weights(policy.model))
