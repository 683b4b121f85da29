"""Pictures noised anew, the distance that a policy has moved, and branches at one step; every flow family."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from small_pipelines import adapter, all_columns, gradients, nudge, roll, stored, transitions
from test_every_family import made, prompts

from mmrl.core.flow_match import noised
from mmrl.modalities.acting import copies
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.families import FAMILIES, family_class
from mmrl.seeds import seed_of

FLOWS = ["sd3", "flux"]
# Qwen's scheduler stretches its sigmas to their last one, which is also the first of one step: 0 / 0. SANA's own solver
# begins a little below 1.
ODD = ("qwen_image", "qwen_image_edit_plus", "qwen_image_21", "sana")
ONE_STEP = [name for name in FAMILIES if family_class(name).is_flow and name not in ODD]
UNTRAINED = {"plan": {"name": "untrained"}}
FREE = {"guidance": 0.0}


def untrained(family="sd3", **sampling):
    return adapter(family, sampling={**FREE, **UNTRAINED, **sampling})


@pytest.mark.parametrize("family", FLOWS)
def test_the_latent_that_is_stored_is_that_of_the_picture(family):
    policy = untrained(family)
    samples = roll(policy)
    assert all(s.trajectory.mask.shape == (0,) for s in samples)
    size = policy.train_size
    pictures = policy._sampler.decode(stored(samples, "clean"), size)
    assert [p.tobytes() for p in pictures] == [s.artifact.tobytes() for s in samples]


@pytest.mark.parametrize("family", FLOWS)
def test_velocities_are_the_denoisers_at_the_noised_latents(family):
    """x and the noise depend on the sample's latent, time and seed; not on the weights, nor on the company."""
    policy = untrained(family)
    samples, times, seeds = roll(policy), torch.tensor([0.1, 0.9, 0.5, 0.3]), [4, 5, 6, 4]
    found = policy.velocities(samples, times, seeds)
    assert torch.equal(found.clean, stored(samples, "clean"))
    assert torch.equal(found.noise[0], found.noise[3]) and not torch.equal(found.noise[0], found.noise[1])
    assert torch.equal(found.x, noised(found.clean, found.noise, times))
    alone = policy.velocities(samples[1:2], times[1:2], seeds[1:2])
    torch.testing.assert_close(alone.velocity[0], found.velocity[1], rtol=1e-4, atol=1e-5)
    assert gradients(policy, found.velocity.square().sum())
    before = found.velocity.detach().clone()
    nudge(policy)
    moved = policy.velocities(samples, times, seeds)
    assert torch.equal(moved.x, found.x) and not torch.equal(moved.velocity, before)


@pytest.mark.parametrize("family", ONE_STEP)
def test_from_pure_noise_the_velocity_leads_where_the_sampler_went(family):
    """One ODE step from t = 1 to 0: the picture's latent is the noise it began with, less the velocity there; whatever
    the family's sign, time and layout."""
    policy = made(family, sampling={**UNTRAINED, "steps": 1, "size": 32})
    samples = roll(policy, n=1, prompts=prompts(family)[:2])
    found = policy.velocities(samples, torch.ones(2), [seed_of(7, 0, s.prompt.id, 0, "start") for s in samples])
    assert torch.equal(found.x, found.noise)
    torch.testing.assert_close(found.noise - found.velocity, found.clean, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_noised_anew_says_what_to_do():
    with pytest.raises(Unsupported, match="name: untrained"):
        adapter(sampling=FREE).velocities([], torch.zeros(0), [])
    with pytest.raises(Unsupported, match="family sd predicts no velocity"):
        adapter("sd", sampling={**UNTRAINED, "guidance": 0.0}).velocities([], torch.zeros(0), [])
    empty = untrained().velocities([], torch.zeros(0), [])
    assert empty.velocity.shape == empty.clean.shape == (0, 8, 4, 4)


# ------------------------------------------------------------------ how far the policy has moved


@pytest.mark.parametrize("family", ["sd3", "flux", "sd"])
def test_the_divergence_is_the_kl_of_each_step_from_the_policy_that_sampled(family):
    policy = adapter(family, sampling={**FREE, "keep_mean": True})
    assert "divergence" in policy.provides and "divergence" not in adapter(family, sampling=FREE).provides
    samples = roll(policy)
    columns = all_columns(samples)
    assert policy.logprobs(samples, columns).divergence.abs().max() < 1e-9
    old = stored(samples, "mean").flatten(2)
    nudge(policy)
    found = policy.logprobs(samples, columns[1:]).divergence
    new, std = transitions(policy, samples)
    wanted = ((new.flatten(2) - old) ** 2).mean(2) / (2 * std.view(4, -1) ** 2)
    torch.testing.assert_close(found, wanted[:, 1:], rtol=1e-3, atol=1e-9)
    assert not found.requires_grad and bool((found > 0).all())


def test_each_step_stores_the_deviation_of_its_noise():
    """Early steps of Flow-SDE are noisier; the feature of the weight noise_level."""
    std = stored(roll(adapter(sampling=FREE)), "std")
    assert std.shape == (4, 3) and bool((std > 0).all())
    assert torch.equal(std[0], std[3]) and not torch.equal(std[:, 0], std[:, 1])


def test_branches_at_one_step_share_everything_before_it():
    """same_noise and a window of one: a group is the branches of one trajectory, and groups are of their own noise."""
    sampling = {**FREE, "same_noise": True, "plan": {"name": "explicit", "steps": [1]}}
    before, after = (stored(roll(adapter(sampling=sampling), n=3), key)[:, 0] for key in ("x", "x_next"))
    assert torch.equal(before[0], before[1]) and torch.equal(before[0], before[2])
    assert not torch.equal(after[0], after[1])
    assert not torch.equal(before[0], before[3])


# ------------------------------------------------------------------ pictures made anew, as distillation asks


@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_what_the_last_step_makes_is_the_picture(family, guidance):
    """And each step before it makes another one, all of them with a gradient."""
    policy = adapter(family, sampling={"guidance": guidance, "kernel": "cps"})  # without noise in the last step
    samples = roll(policy)
    made = [policy.generated(samples, torch.full((len(samples),), place)) for place in (0.0, 0.3, 0.6, 0.99)]
    pictures = policy._sampler.decode(made[-1].detach(), policy.train_size)
    for picture, sample in zip(pictures, samples):
        ours, theirs = (torch.tensor(list(p.tobytes()), dtype=torch.int16) for p in (picture, sample.artifact))
        assert int((ours - theirs).abs().max()) <= 1
    assert all(float((one - other).detach().abs().max()) > 1e-3 for one, other in pairwise(made))
    assert any(g.any() for g in gradients(policy, made[0].square().sum()).values())
    assert policy.generated([], torch.zeros(0)).shape == (0, *made[0].shape[1:])


def test_a_picture_may_be_given_and_the_teacher_guided():
    """v(g) = u + g (c - u) at the same place, whatever was stored."""
    policy = adapter()
    samples = roll(policy)
    times, seeds = torch.tensor([0.2, 0.4, 0.6, 0.8]), [1, 2, 3, 4]
    clean = policy.generated(samples, torch.zeros(4)).detach()
    plain, three, five = (
        policy.velocities(samples, times, seeds, clean=clean, guidance=g).velocity for g in (None, 3.0, 5.0)
    )
    assert torch.equal(policy.velocities(samples, times, seeds, clean=clean).clean, clean)
    torch.testing.assert_close(five - plain, 2 * (three - plain), rtol=1e-3, atol=1e-4)
    assert float((three - plain).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("family", FLOWS)
def test_the_guidance_of_the_policys_samples_is_that_of_its_velocity(family):
    """Where the scale goes into the denoiser it always is; a second forward is run where it is asked for."""
    policy = adapter(family)
    samples = roll(policy)
    assert policy.sampling_guidance == 3.0
    given = samples, torch.tensor([0.2, 0.4, 0.6, 0.8]), [1, 2, 3, 4]
    clean = policy.generated(samples, torch.zeros(4)).detach()
    plain, same = (
        policy.velocities(*given, clean=clean, guidance=g).velocity for g in (None, policy.sampling_guidance)
    )
    assert (float((plain - same).detach().abs().max()) > 1e-3) == (policy.family.guidance == "passes")


def test_what_is_recomputed_in_a_backward_is_of_the_weights_that_act():
    """Gradients of the policy and of weights in its place are those without gradient checkpointing."""
    found = []
    for recomputed in (False, True):
        policy = adapter(sampling=FREE, gradient_checkpointing=recomputed)
        samples, weights = roll(policy), copies(policy.trainable_parameters(), trained=True)
        nudge(policy)
        clean = policy.generated(samples, torch.zeros(4))
        with policy.acting(weights, gradient=True):
            moved = policy.velocities(samples, torch.full((4,), 0.5), [1, 2, 3, 4], clean=clean.detach()).velocity
            moved.square().mean().backward()
        with policy.acting(weights):
            policy.generated(samples, torch.zeros(4))
        clean.square().mean().backward()
        found.append([p.grad for one in (weights, policy.trainable_parameters()) for p in one.values()])
    assert sum(gradient is not None for gradient in found[0]) > len(found[0]) / 2
    for plain, again in zip(*found, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-8)


def test_what_cannot_be_made_anew_says_what_to_do():
    with pytest.raises(Unsupported, match="name: full"):
        untrained().generated([], torch.zeros(0))
    with pytest.raises(Unsupported, match="distill stages train flow models"):
        adapter("sd").generated([], torch.zeros(0))
    without = adapter(sampling=FREE)
    without.family.guidance = "none"
    with pytest.raises(Unsupported, match=r"guidance 4 of a teacher.*distilled to sample without it"):
        without.velocities([], torch.zeros(0), [], clean=torch.zeros(0), guidance=4.0)
