"""The reference is the policy where a stage begins, its text encoders included, whatever is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from small_pipelines import BUILD, LORA, adapter, all_columns, gradients, nudge, roll, transitions
from torch import Tensor

from mmrl.modalities.image.adapter import ImageAdapter

TRAINED = {
    "denoiser": {},
    "text_encoders": {"components": ["text_encoders"]},
    "both": {"components": ["denoiser", "text_encoders"]},
    "lora": LORA,
}


def begun(family: str = "sd3", what: str = "denoiser", **options) -> ImageAdapter:
    """A policy that was trained before, at the start of a stage."""
    policy = adapter(family, **TRAINED[what], **options)
    nudge(policy, 3e-2)
    policy.prepare_reference()
    return policy


def hand_kl(policy: ImageAdapter, frozen: ImageAdapter, samples) -> Tensor:
    """[B, T]: KL of two Gaussians of the same width, from the steps of two pipelines that share nothing."""
    (mean, std), (mean_reference, _) = transitions(policy, samples), transitions(frozen, samples)
    axes = tuple(range(2, mean.ndim))
    return ((mean - mean_reference.detach()) ** 2 / (2 * std.detach() ** 2)).mean(axes)


@pytest.mark.parametrize("what", TRAINED)
@pytest.mark.parametrize("family", BUILD)
def test_kl_is_zero_where_the_stage_begins_and_that_of_two_pipelines_after_an_update(family, what):
    policy = begun(family, what)
    samples = roll(policy)
    columns = all_columns(samples)
    first = policy.logprobs(samples, columns, reference=True)
    assert bool((first.kl == 0).all())
    assert torch.equal(first.logp_reference, first.logp.detach())

    frozen = copy.deepcopy(policy)
    nudge(policy, 3e-2)
    expected = hand_kl(policy, frozen, samples).detach()
    moved = policy.logprobs(samples, columns, reference=True)
    assert float(expected.min()) > 1e-9
    torch.testing.assert_close(moved.kl, expected, rtol=1e-3, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(moved.logp_reference, frozen.logprobs(samples, columns).logp, atol=1e-6, rtol=0)
    assert not torch.equal(moved.logp_reference, moved.logp)


def test_fresh_lora_starts_at_the_pipeline_it_was_put_on():
    policy, bare = adapter(**LORA), adapter()
    policy.prepare_reference()
    samples = roll(policy)
    nudge(policy, 3e-2)
    with torch.no_grad():
        expected = bare.logprobs(samples, all_columns(samples)).logp
    moved = policy.logprobs(samples, all_columns(samples), reference=True)
    torch.testing.assert_close(moved.logp_reference, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", BUILD)
def test_lora_from_a_folder_starts_at_what_it_reads(family, tmp_path):
    trained = adapter(family, **LORA)
    nudge(trained, 3e-2)
    trained.save(tmp_path)
    policy = adapter(family, train="lora", lora={"path": str(tmp_path)})
    policy.prepare_reference()
    samples = roll(policy)
    first = policy.logprobs(samples, all_columns(samples), reference=True)
    assert torch.equal(first.logp_reference, first.logp.detach()) and bool((first.kl == 0).all())
    nudge(policy, 3e-2)
    moved = policy.logprobs(samples, all_columns(samples), reference=True)
    torch.testing.assert_close(moved.kl, hand_kl(policy, trained, samples), rtol=2e-3, atol=1e-9)


def test_lora_may_ship_and_may_be_missing(tmp_path, monkeypatch):
    trained = adapter(**LORA)
    nudge(trained, 3e-2)
    trained.save(tmp_path / "assets" / "lora")
    monkeypatch.setattr("mmrl.share.share", lambda *parts: tmp_path.joinpath(*parts))
    policy = adapter(train="lora", lora={"path": "share://assets/lora"})
    expected = trained.trainable_parameters()
    assert all(torch.equal(p, expected[name]) for name, p in policy.trainable_parameters().items())
    with pytest.raises(FileNotFoundError, match=r"model\.lora\.path 'share://assets/lara'.*is not there"):
        adapter(train="lora", lora={"path": "share://assets/lara"})


def test_lora_of_a_pickle_is_not_loaded(tmp_path):
    trained = adapter(**LORA)
    trained.family.pipeline.save_lora_weights(
        tmp_path, transformer_lora_layers={"x.lora_A.weight": torch.zeros(1)}, safe_serialization=False
    )
    with pytest.raises(OSError, match="safetensors"):
        adapter(train="lora", lora={"path": str(tmp_path)})


@pytest.mark.parametrize("what", TRAINED)
@pytest.mark.parametrize("branch", ["conditional", "both"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_with_a_reference_forward_between_is_that_of_two_pipelines(what, branch, checkpointing):
    policy = begun(what=what, sampling={"guidance_gradient": branch}, gradient_checkpointing=checkpointing)
    samples = roll(policy)
    frozen = copy.deepcopy(policy)
    nudge(policy, 3e-2)
    columns = all_columns(samples)
    factor = torch.tensor([1.0, -2.0, 0.5, 1.5])[:, None]

    expected = gradients(
        policy, (factor * policy.logprobs(samples, columns).logp + hand_kl(policy, frozen, samples)).sum()
    )
    calls = []
    block = policy.family.denoiser.transformer_blocks[0]
    block.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    replay = policy.logprobs(samples, columns, reference=True)
    before = len(calls)
    found = gradients(policy, (factor * replay.logp + replay.kl).sum())

    # A forward of the block in the backward pass is the recomputation, after the weights have changed places twice.
    assert (len(calls) > before) == checkpointing
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 0 and max(float((found[k] - expected[k]).abs().max()) for k in found) < 1e-5 * scale


def test_a_region_of_half_precision_does_not_hand_the_policys_casts_to_the_reference():
    policy = begun(dtype="bfloat16")
    samples = roll(policy)
    nudge(policy, 3e-2)
    columns = all_columns(samples)
    alone = policy.logprobs(samples, columns, reference=True)
    with torch.autocast("cpu", torch.bfloat16):  # a region around both forwards keeps casts of leaves
        together = policy.logprobs(samples, columns, reference=True)
    assert float(alone.kl.detach().min()) > 0
    torch.testing.assert_close(together.kl, alone.kl)


@pytest.mark.parametrize("what", ["denoiser", "lora"])
def test_inside_the_reference_a_rollout_is_the_references(what):
    policy = begun(what=what)
    frozen = copy.deepcopy(policy)
    nudge(policy, 3e-2)
    with policy.reference():
        samples = roll(policy)
    expected = roll(frozen)
    assert all(torch.equal(a.trajectory.logp, b.trajectory.logp) for a, b in zip(samples, expected, strict=True))
    # What it stored is not taken for the policy's own.
    stripped = copy.deepcopy(samples)
    for sample in stripped:
        del sample.trajectory.tensors["unconditional"]
    with torch.no_grad():
        ours, again = (policy.logprobs(some, all_columns(some)).logp for some in (samples, stripped))
    torch.testing.assert_close(ours, again)


def test_a_stage_with_other_parts_has_no_reference_of_the_stage_before():
    policy = begun()
    policy.select(["text_encoders"])
    assert policy.reference_parameters() == {}
    with pytest.raises(RuntimeError, match="prepare_reference"), policy.reference():
        pass
