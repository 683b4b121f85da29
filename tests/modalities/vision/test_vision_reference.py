"""The reference of a model that sees: its tower, frozen or trained, is that of the stage's start too."""

from __future__ import annotations

import copy

import pytest
import torch

POLICIES = {
    "frozen": {},
    "trained": {"vision": "trained"},
    "lora": {"train": "lora", "lora": {"rank": 2, "alpha": 4}},
    "trained-checkpointing": {"vision": "trained", "gradient_checkpointing": True},
    "trained-bfloat16": {"vision": "trained", "dtype": "bfloat16"},
    "smolvlm-trained": {"kind": "smolvlm", "vision": "trained"},
    "qwen3-trained": {"kind": "qwen3_vl", "vision": "trained"},  # whose pictures enter inner layers, too
}
COLUMNS = torch.arange(10)


def shake(policy, size=0.05):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("options", POLICIES.values(), ids=POLICIES)
def test_policy_and_reference_share_no_features_of_a_trained_tower(adapter, drawn, ask, roll, options):
    policy = adapter(**options)
    samples = roll(policy, [ask("Which?", drawn(1), drawn(2, (40, 72))), ask("What?", drawn(1))])
    shake(policy)
    policy.prepare_reference()
    start = policy.logprobs(samples, COLUMNS, reference=True)
    assert torch.equal(start.logp_reference, start.logp.detach())
    twin = copy.deepcopy(policy)
    shake(policy)

    wanted = policy.logprobs(samples, COLUMNS)
    wanted.logp_reference = twin.logprobs(samples, COLUMNS).logp.detach()
    found = policy.logprobs(samples, COLUMNS, reference=True)
    assert torch.equal(found.logp, wanted.logp) and torch.equal(found.logp_reference, start.logp.detach())
    assert torch.equal(found.logp_reference, wanted.logp_reference)
    assert (found.logp - found.logp_reference).abs().max() > 1e-3

    parameters = list(policy.trainable_parameters().values())
    expected, made = (
        torch.autograd.grad((x.logp.exp() + 3 * (x.logp_reference - x.logp).exp()).sum(), parameters)
        for x in (wanted, found)
    )
    assert all(map(torch.equal, made, expected)) and any(bool(g.any()) for g in made)
