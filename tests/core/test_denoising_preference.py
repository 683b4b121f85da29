"""DGPO and diffusion DPO against numbers by hand, the loss of whole groups, and what they must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.algorithm import Algorithm
from mmrl.core.denoising_preference import dgpo, dgpo_clip, dgpo_logits, diffusion_dpo

# Two groups of two and three, over two places.
GROUP = torch.tensor([0, 1, 0, 1, 1])
ADVANTAGE = torch.tensor([1.0, 2.0, -1.0, -1.0, -1.0], dtype=torch.float64)


def drawn(seed: int, *shape: int):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, 5, *shape, generator=g, dtype=torch.float64)


def test_the_logit_by_hand():
    """Group 0: (1 * 0.1 - 1 * 0.3) / 2 = -0.1; group 1: (2 * 0.2 - 0.1 + 0.1) / 3; both times beta 10."""
    gap = torch.tensor([0.1, 0.2, 0.3, 0.1, -0.1], dtype=torch.float64)
    found = dgpo_logits(gap + 0.5, torch.full((5,), 0.5), ADVANTAGE, GROUP, 2, beta=10.0)
    assert found.tolist() == pytest.approx([-1.0, 4 / 3])


@given(st.integers(0, 1000), st.sampled_from([(), (3,)]), st.floats(0.1, 200.0))
def test_the_gradient_is_that_of_softplus_of_the_logits_of_whole_groups(seed, draws, beta):
    """softplus(beta mean_i A_i (error_i - ref_i)) / beta, a group's mean of the loss, however the groups are cut."""
    error, ref = drawn(seed, *draws)
    whole = error.clone().requires_grad_()
    signed = ADVANTAGE if not draws else ADVANTAGE[:, None]
    logits = [beta * (signed * (whole - ref))[g == GROUP].mean(0) for g in (0, 1)]
    sum((torch.nn.functional.softplus(logit) / beta).sum() for logit in logits).backward()

    cut = error.clone().requires_grad_()
    logit = dgpo_logits(error, ref, ADVANTAGE, GROUP, 2, beta=beta)
    share = torch.tensor([2.0, 3.0], dtype=torch.float64)[GROUP]
    for rows in ([0], [3, 1], [2, 4]):
        loss, _ = dgpo(cut[rows], ADVANTAGE[rows], logit[GROUP[rows]], beta)
        (loss / (share[rows] if not draws else share[rows][:, None])).sum().backward()
    torch.testing.assert_close(cut.grad, whole.grad)


def test_the_logits_of_groups_over_several_ranks_are_those_of_one():
    error, ref = drawn(3)
    wanted = dgpo_logits(error, ref, ADVANTAGE, GROUP, 2)
    parts = [[0, 1, 4], [2, 3]]
    given = [(error[rows], ref[rows], ADVANTAGE[rows], GROUP[rows], 2) for rows in parts]
    asked: list[list[torch.Tensor]] = [[], []]
    for part, seen in zip(given, asked):
        dgpo_logits(*part, reduce=lambda x, op="sum", seen=seen: (seen.append(x), x)[1])
    sums = [sum(of_all) for of_all in zip(*asked)]
    for part in given:
        answers = iter(sums)
        torch.testing.assert_close(dgpo_logits(*part, reduce=lambda x, op="sum", left=answers: next(left)), wanted)


def test_a_policy_that_is_the_reference_has_half_the_gradient_of_matching_by_advantage():
    error = drawn(4)[0].requires_grad_()
    logit = dgpo_logits(error, error, ADVANTAGE, GROUP, 2)
    loss, metrics = dgpo(error, ADVANTAGE, logit[GROUP], 50.0)
    loss.sum().backward()
    assert error.grad.tolist() == pytest.approx((ADVANTAGE / 2).tolist())
    assert metrics["preference"].tolist() == pytest.approx([math.log(2) / 50] * 5)


def test_a_preference_that_holds_by_far_is_left_alone():
    """Good samples far below the reference's error: the logit is -large, and its gradient dies; not the other way."""
    error = torch.tensor([0.0, 0.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    logit = dgpo_logits(error, torch.ones(5), ADVANTAGE, GROUP, 2, beta=100.0)
    assert bool((torch.sigmoid(logit) < 1e-20).all())
    assert bool((torch.sigmoid(dgpo_logits(2 - error, torch.ones(5), ADVANTAGE, GROUP, 2)) == 1).all())


def test_strict_wants_both_signs_in_each_group():
    error, ref = drawn(5)
    dgpo_logits(error, ref, ADVANTAGE, GROUP, 3, strict=True)  # group 2 has no samples
    with pytest.raises(ValueError, match="1 groups have advantages of one sign only, first group 1"):
        dgpo_logits(error, ref, ADVANTAGE.abs() * torch.tensor([1, 1, -1, 1, 1]), GROUP, 2, strict=True)


def test_the_clip_by_hand():
    """Ratios 1.1, 1.04, 0.9, 0.96, 1.1 and 0.9 at 0.05: too far where A pushes there, that is the first and third."""
    r = torch.tensor([1.1, 1.04, 0.9, 0.96, 1.1, 0.9], dtype=torch.float64)
    advantage = torch.tensor([2.0, 1.0, -1.0, -3.0, -1.0, 1.0])
    error = (-r.log() + 0.5).requires_grad_()
    clip = Algorithm(clip_low=0.05, clip_high=0.05)
    low, high, apart = dgpo_clip(error, torch.full_like(r, 0.5), advantage, clip)
    assert high.tolist() == [True, False, False, False, False, False]
    assert low.tolist() == [False, False, True, False, False, False]
    assert apart.tolist() == pytest.approx([0.1, 0.04, 0.1, 0.04, 0.1, 0.1])
    loss, _ = dgpo(error, advantage, torch.zeros(6), held=low | high)
    loss.sum().backward()
    assert error.grad.tolist() == pytest.approx([0, 0.5, 0, -1.5, -0.5, 0.5])  # A times sigmoid(0)
    low, high, _ = dgpo_clip(error, torch.full_like(r, 0.5), advantage, Algorithm(gate="none"))
    assert not (low | high).any()


def test_diffusion_dpo_by_hand():
    """-beta/2 [(0.1 - 0.3) - (0.6 - 0.5)] = 0.15 beta with beta 2: log(1 + e^-0.3)."""
    errors = [torch.tensor([v], dtype=torch.float64) for v in (0.1, 0.6, 0.3, 0.5)]
    errors[0].requires_grad_(), errors[1].requires_grad_()
    loss, metrics = diffusion_dpo(*errors, beta=2.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.3)))
    assert metrics["accuracy"].item() == 1
    loss.backward()
    wrong = 1 / (1 + math.exp(0.3))
    assert errors[0].grad.item() == pytest.approx(wrong)  # beta / 2 = 1
    assert errors[1].grad.item() == pytest.approx(-wrong)


def test_diffusion_dpo_of_the_reference_is_log_two():
    error = torch.tensor([0.3, 0.2])
    assert diffusion_dpo(error, error * 2, error, error * 2)[0].tolist() == pytest.approx([math.log(2)] * 2)
