"""TDM-R1's surrogate and the generator that follows it: values by hand, and what each leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from mmrl.core.denoising_preference import dgpo_logits
from mmrl.core.distribution import descent, dmd, dmd_direction
from mmrl.core.surrogate import (
    beyond_reference,
    boundary_weight,
    guidance_direction,
    outside_trust,
    reward_direction,
    surrogate_loss,
)


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


# Error, that of the slow copy, advantage -> whether the clip of 0.1 holds it: log 1.1 is 0.0953, log 0.9 -0.1054.
TRUST = {
    "good, better by 0.09": (0.41, 0.5, 1.0, False),
    "good, better by 0.10": (0.40, 0.5, 1.0, True),
    "good, worse": (0.9, 0.5, 1.0, False),
    "bad, worse by 0.10": (0.60, 0.5, -1.0, False),
    "bad, worse by 0.11": (0.61, 0.5, -1.0, True),
    "bad, better": (0.1, 0.5, -1.0, False),
}


@pytest.mark.parametrize(("error", "slow", "advantage", "held"), TRUST.values(), ids=TRUST)
def test_the_trust_region_holds_what_went_the_wanted_way_by_more_than_the_clip(error, slow, advantage, held):
    assert outside_trust(row(error), row(slow), row(advantage), 0.1).item() is held


# Error less the reference's, advantage -> whether a limit of 0.05 holds it: its root is 0.2236.
BEYOND = {
    "good, just inside": (-0.22, 1.0, False),
    "good, beyond": (-0.23, 1.0, True),
    "good, wrong way": (0.9, 1.0, False),
    "bad, just inside": (0.22, -1.0, False),
    "bad, beyond": (0.23, -1.0, True),
    "bad, wrong way": (-0.9, -1.0, False),
}


@pytest.mark.parametrize(("gap", "advantage", "held"), BEYOND.values(), ids=BEYOND)
def test_the_reference_holds_what_is_past_the_limit_in_the_wanted_direction(gap, advantage, held):
    assert beyond_reference(row(1.0 + gap), row(1.0), row(advantage), 0.05).item() is held


def test_the_last_boundary_counts_whole():
    assert boundary_weight(torch.arange(4), 4).tolist() == [0.25, 0.5, 0.75, 1.0]


def test_the_surrogates_loss_and_gradient_by_hand():
    """A group of a good, a bad and a held good sample; errors less the reference's -0.1, 0.1, -0.3, advantages 1, -2,
    1: the logit is 2 (-0.1 - 0.2 - 0.3) / 3 = -0.4, and the third has the anchor alone, 2 * 0.5 * -0.3."""
    error, ref, advantage = row(0.9, 1.1, 0.7).requires_grad_(), row(1.0, 1.0, 1.0), row(1, -2, 1)
    logit = dgpo_logits(error, ref, advantage, torch.zeros(3, dtype=torch.int64), 1, beta=2.0)
    assert logit.item() == pytest.approx(-0.4)
    loss, told = surrogate_loss(error, ref, error.detach(), advantage, logit.expand(3), beta=2.0, anchor=0.5)
    weight = 1 / (1 + math.exp(0.4))
    anchored = [0.5 * gap**2 for gap in (0.1, 0.1, 0.3)]
    assert loss.tolist() == pytest.approx(
        [weight * 0.9 + anchored[0], weight * -2.2 + anchored[1], weight * 0.7 + anchored[2]]
    )
    loss.sum().backward()
    assert error.grad.tolist() == pytest.approx([weight - 0.1, -2 * weight + 0.1, -0.3])
    assert told["held/reference"].tolist() == [0, 0, 1] and told["held/trust"].tolist() == [0, 0, 0]
    assert told["gap"].tolist() == pytest.approx([-0.1, 0.1, -0.3])


def test_what_the_slow_copy_holds_has_the_anchors_gradient_alone():
    """Better than the slow copy by 0.01 where 0.001 is allowed; a clip of 0 asks no slow copy."""
    error, ref = row(0.99, 0.99).requires_grad_(), row(1.0, 1.0)
    advantage, slow, logit = row(1, -1), row(1.0, 1.0), row(0.0, 0.0)
    loss, told = surrogate_loss(error, ref, slow, advantage, logit, anchor=1.0)
    (found,) = torch.autograd.grad(loss.sum(), error)
    assert told["held/trust"].tolist() == [1, 0]
    assert found.tolist() == pytest.approx([-0.02, -0.5 - 0.02])
    loss, told = surrogate_loss(error, ref, row(math.nan, math.nan), advantage, logit, clip=0.0, anchor=1.0)
    (found,) = torch.autograd.grad(loss.sum(), error)
    assert found.tolist() == pytest.approx([0.5 - 0.02, -0.5 - 0.02]) and not told["held/trust"].any()


def test_without_advantages_there_is_the_anchor_alone():
    error, ref = row(0.5, 1.2).requires_grad_(), row(1.0, 1.0)
    loss, _ = surrogate_loss(error, ref, error.detach(), row(0, 0), row(0, 0), anchor=0.25)
    loss.sum().backward()
    assert error.grad.tolist() == pytest.approx([2 * 0.25 * -0.5, 2 * 0.25 * 0.2])


# ------------------------------------------------------------------ the generator


def rewarded(clean, real, fake, surrogate, plain=None, guidance=0.3, reward=0.7):
    """The generator's loss along all three."""
    direction = dmd_direction(clean, real, fake) + reward * reward_direction(clean, surrogate, real)
    if plain is not None:
        direction = direction + guidance * guidance_direction(clean, real, plain)
    return descent(clean, direction)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_generators_direction_by_hand():
    """Off the teacher by 1 and 3, mean 2, off the surrogate by 1 and 0, mean 0.5. Matching: fake - real (4, -2) / 2;
    guidance: real - plain (2, 1) / 2; reward: surrogate - real (2, -3) / 0.5."""
    clean = rows([1.0, 0.0]).requires_grad_()
    real, fake = rows([0.0, 3.0]), rows([4.0, 1.0])
    plain, surrogate = rows([-2.0, 2.0]), rows([2.0, 0.0])
    rewarded(clean, real, fake, surrogate, plain, guidance=0.5, reward=0.25).sum().backward()
    wanted = [2 - 0.5 * 1 - 0.25 * 4, -1 - 0.5 * 0.5 + 0.25 * 6]
    assert clean.grad.tolist() == [pytest.approx([value / 2 for value in wanted])]  # D = 2


def test_a_surrogate_that_is_the_reference_leaves_plain_distribution_matching():
    g = torch.Generator().manual_seed(0)
    clean, real, fake = (torch.randn(3, 2, 4, generator=g) for _ in range(3))
    assert torch.equal(rewarded(clean, real, fake, real), dmd(clean, real, fake))
    assert torch.equal(rewarded(clean, real, fake, real, real), dmd(clean, real, fake))


def test_others_get_no_gradient():
    clean, *others = (torch.full((1, 2), float(i), requires_grad=True) for i in range(1, 6))
    rewarded(clean, *others).sum().backward()
    assert clean.grad is not None and all(other.grad is None for other in others)


def test_a_surrogate_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        rewarded(rows([1.0]), rows([0.0]), rows([0.5]), rows([math.nan]))


def test_a_generator_leaves_its_teacher_for_what_the_surrogate_likes():
    """The teacher's data are at 0, the surrogate's at 0.5, the fake score is exact: matching pulls by a / |a| = 1 to 0,
    and the reward by 0.5 * 0.5 / |a - 0.5| to larger numbers, up to a = 0.75."""
    a, ends = torch.zeros(1, 1, dtype=torch.float64).requires_grad_(), {}
    for reward in (0.0, 0.5):
        with torch.no_grad():
            a.fill_(0.3)
        for _ in range(120):
            real, surrogate = torch.zeros_like(a), torch.full_like(a, 0.5)
            (found,) = torch.autograd.grad(rewarded(a, real, a.detach(), surrogate, reward=reward).sum(), a)
            with torch.no_grad():
                a -= 0.02 * found
        ends[reward] = float(a.detach())
    assert ends == {0.0: pytest.approx(0.0, abs=0.03), 0.5: pytest.approx(0.75, abs=0.03)}
