"""Preferences between single steps: who is best and worst, and the loss by hand."""

from __future__ import annotations

import math

import torch

from mmrl.core.step_preference import extremes, step_dpo


def test_best_and_worst_of_each_group():
    """A group without a difference has no pair, nor has one of which a single row counts."""
    group = torch.tensor([5, 2, 5, 2, 5, 7, 7, 9, 9])
    advantage = torch.tensor([0.5, 1.0, -1.0, 1.0, 2.0, 3.0, 4.0, 1.0, 0.0])
    counted = torch.tensor([True, True, True, True, False, True, True, True, False])
    assert extremes(advantage, counted, group).tolist() == [[0, 2], [6, 5]]
    assert extremes(advantage, torch.zeros(9, dtype=torch.bool), group).shape == (0, 2)


def test_the_loss_and_its_gradient_by_hand():
    """At p = p_ref the loss is log 2 and the gradient -beta / 2 on the better step, beta / 2 on the worse one."""
    logp = torch.tensor([[[0.3, -1.0], [0.2, -2.0]]], dtype=torch.float64, requires_grad=True)
    loss, margin = step_dpo(logp, logp.detach().clone(), beta=4.0)
    torch.testing.assert_close(loss, torch.full((1, 2), math.log(2), dtype=torch.float64))
    assert margin.tolist() == [[0.0, 0.0]]
    [gradient] = torch.autograd.grad(loss.sum(), [logp])
    assert gradient.tolist() == [[[-2.0, -2.0], [2.0, 2.0]]]
    ref = torch.tensor([[[0.1, -1.0], [0.4, -1.5]]], dtype=torch.float64)
    loss, margin = step_dpo(logp, ref, beta=4.0)
    wanted = [4 * ((0.3 - 0.1) - (0.2 - 0.4)), 4 * ((-1.0 + 1.0) - (-2.0 + 1.5))]
    torch.testing.assert_close(margin, torch.tensor([wanted], dtype=torch.float64))
    torch.testing.assert_close(loss, torch.tensor([[math.log1p(math.exp(-w)) for w in wanted]], dtype=torch.float64))
