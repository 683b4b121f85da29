"""NFT and AWM against numbers by hand and the identities that define them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core import flow_match as flow
from mmrl.core.algorithm import Algorithm
from mmrl.core.forward_process import WEIGHTINGS, awm, matching_logp, nft

PPO = Algorithm().with_defaults(0.1, 0.1)


def drawn(seed: int, rows: int = 4):
    """clean, noise, t, x and a velocity, [rows, 3, 2]."""
    g = torch.Generator().manual_seed(seed)
    clean, noise, velocity = torch.randn(3, rows, 3, 2, generator=g, dtype=torch.float64)
    t = 0.05 + 0.9 * torch.rand(rows, generator=g, dtype=torch.float64)
    return clean, noise, t, flow.noised(clean, noise, t), velocity


# ------------------------------------------------------------------ NFT


def test_nft_by_hand():
    """One sample of one element: x0 = 1, eps = 3, t = 0.5, so x = 2 and the right velocity is 2.

    v = 1, v_old = 4, beta 0.5: v+ = 2.5, v- = 1.5 * 4 - 0.5 = 5.5; x0 by them 0.75 and -0.75, off by -0.25 and -1.75.
    Each over its own size: 0.25 and 1.75. A = 1 of 4: r = 0.625. 4 (0.625 * 0.25 + 0.375 * 1.75) / 0.5 = 6.5.
    """
    one = [torch.tensor([[v]], dtype=torch.float64) for v in (1.0, 4.0, 1.0, 2.0)]
    half, advantage = torch.tensor([0.5], dtype=torch.float64), torch.tensor([1.0])
    loss, metrics = nft(*one, half, advantage, beta=0.5, saturation=4.0)
    assert loss.tolist() == pytest.approx([6.5])
    assert metrics["error/towards"].tolist() == pytest.approx([0.25])
    assert metrics["error/away"].tolist() == pytest.approx([1.75])


def gradient(clean, x, t, velocity, old, advantage, **options):
    leaf = velocity.clone().requires_grad_()
    nft(leaf, old, clean, x, t, advantage, **options)[0].sum().backward()
    return leaf.grad


@given(st.integers(0, 1000), st.floats(0.05, 1.0), st.floats(0.5, 10.0))
def test_at_the_old_policy_nft_is_the_advantage_times_the_error(seed, beta, saturation):
    """d/dv of clip(A) mean (x0hat - x0)^2 / size, with d x0hat / dv = -t; neither beta nor saturation is in it."""
    clean, _, t, x, velocity = drawn(seed)
    advantage = torch.tensor([-7.0, -0.3, 0.0, 0.4], dtype=torch.float64)
    found = gradient(clean, x, t, velocity, velocity, advantage, beta=beta, saturation=saturation)
    off = x - t.view(-1, 1, 1) * velocity - clean
    size = off.abs().mean((1, 2))
    wanted = (advantage.clamp(-saturation, saturation) * -t * 2 / 6 / size).view(-1, 1, 1) * off
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_an_advantage_of_zero_has_no_gradient_at_the_old_policy_and_a_pull_back_elsewhere():
    clean, _, t, x, velocity = drawn(1)
    none, old = torch.zeros(4), velocity + 0.01
    assert gradient(clean, x, t, velocity, velocity, none).abs().max() < 1e-12
    assert bool((gradient(clean, x, t, velocity, old, none) * (old - velocity)).sum((1, 2)).lt(0).all())


def test_a_good_sample_trains_towards_itself_and_a_bad_one_mirrors_that():
    """Fully good and beta 1: L+ alone, whose minimum is the sample; fully bad: the sample's mirror image at v_old."""
    clean, noise, t, x, old = drawn(2)
    right = flow.target(clean, noise)
    for advantage, wanted in ((5.0, right), (-5.0, 2 * old - right)):
        assert gradient(clean, x, t, wanted, old, torch.full((4,), advantage)).abs().max() < 1e-9


def test_the_size_of_a_branch_does_not_change_its_pull():
    """Errors twice as large give the same gradient: each branch is divided by its own size."""
    clean, _, t, x, velocity = drawn(3)
    off = x - t.view(-1, 1, 1) * velocity - clean
    farther = velocity - off / t.view(-1, 1, 1)  # x0hat is twice as far away
    good = torch.full((4,), 5.0)
    torch.testing.assert_close(
        gradient(clean, x, t, farther, farther, good), gradient(clean, x, t, velocity, velocity, good)
    )


def test_a_perfect_prediction_is_finite():
    clean, noise, t, x, _ = drawn(4)
    right = flow.target(clean, noise).requires_grad_()
    loss, _ = nft(right, right.detach(), clean, x, t, torch.ones(4))
    loss.sum().backward()
    assert loss.abs().max() < 1e-9 and bool(right.grad.isfinite().all())


def test_nothing_but_the_policys_velocity_gets_gradient_and_half_precision_is_widened():
    clean, _, t, x, velocity = drawn(5)
    old = velocity.clone().requires_grad_()
    loss, _ = nft(velocity.bfloat16().requires_grad_(), old, clean, x, t, torch.ones(4))
    loss.sum().backward()
    assert old.grad is None
    assert nft(*(v.bfloat16() for v in (velocity, velocity, clean, x)), t, torch.ones(4))[0].dtype == torch.float32


# ------------------------------------------------------------------ AWM


def test_weighted_errors_by_hand():
    """Error 4, t 0.5: 4, 2, 1, 0.5 * 2, 0.5 * 4^0.25 / 0.25 (roots of 1e-10 aside: 1e-5 and 0.0031623)."""
    zero, two = torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), 2.0, dtype=torch.float64)
    found = {w: -matching_logp(two, zero, zero, torch.tensor([0.5]), weighting=w).item() for w in WEIGHTINGS}
    wanted = {
        "uniform": 4.0,
        "t": 2.0,
        "t2": 1.0,
        "huber": 0.5 * (2 - 1e-5),
        "ghuber": 2 * (math.sqrt(2) - 10**-2.5),
    }
    assert found == pytest.approx(wanted, abs=1e-8)
    assert -matching_logp(two, zero, zero, torch.tensor([0.5]), weighting="ghuber", power=0.5).item() == pytest.approx(
        2 * wanted["huber"], abs=1e-8
    )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighted_error_is_zero_at_the_sample_and_grows_with_the_error(weighting):
    clean, noise, t, _, _ = drawn(0)
    right = flow.target(clean, noise)
    steps = [right + off for off in (0.0, 0.1, 0.5, 2.0)]
    found = torch.stack([-matching_logp(v, clean, noise, t, weighting=weighting) for v in steps])
    assert found[0].abs().max() < 1e-12
    assert bool((found.diff(dim=0) > 0).all())
    leaf = right.clone().requires_grad_()
    matching_logp(leaf, clean, noise, t, weighting=weighting).sum().backward()
    assert leaf.grad.abs().max() < 1e-9


def test_an_unknown_weighting_is_an_error():
    clean, noise, t, _, v = drawn(0)
    with pytest.raises(ValueError, match=r"t3.*uniform"):
        matching_logp(v, clean, noise, t, weighting="t3")


def test_at_the_old_policy_awm_is_matching_weighted_by_the_advantage():
    clean, noise, t, _, v = drawn(6)
    advantage = torch.tensor([1.5, -0.5, 0.0, 2.0], dtype=torch.float64)
    leaf = v.clone().requires_grad_()
    logp = matching_logp(leaf, clean, noise, t, weighting="t")
    loss, metrics = awm(logp, logp, advantage, PPO)
    loss.sum().backward()
    weight = (advantage * t * 2 / 6).view(-1, 1, 1)  # d/dv of A t mean (v - target)^2, over 6 elements
    torch.testing.assert_close(leaf.grad, weight * (v - flow.target(clean, noise)))
    assert metrics["ratio/dev"].tolist() == [0, 0, 0, 0]
    assert loss.tolist() == pytest.approx([-1.5, 0.5, 0.0, -2.0])


def test_the_ratio_is_clipped_where_it_moved_the_way_it_is_pushed():
    """Ratios 1.2, 0.8, 1.2, 0.8 at a clip range of 0.1; A > 0 loses its gradient above, A < 0 below."""
    logp = torch.tensor([1.2, 0.8, 1.2, 0.8], dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss, metrics = awm(logp, torch.zeros(4), advantage, PPO)
    loss.sum().backward()
    assert logp.grad.tolist() == pytest.approx([0.0, -0.8, 1.2, 0.0])
    assert metrics["clip/high"].tolist() == [1, 0, 0, 0]
    assert metrics["clip/low"].tolist() == [0, 0, 0, 1]
