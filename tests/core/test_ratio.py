"""Ratio levels: values and gradients by hand, and gaps that would overflow."""

import math

import pytest
import torch

from mmrl.core.ratio import LEVELS, log_ratio, ratio

# Row 0 trains its first two actions, row 1 all three, row 2 none.
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
OLD = torch.tensor([[-1.0, -2.0, -9.0], [-1.0, -1.0, -1.0], [-4.0, -4.0, -4.0]], dtype=torch.float64)
GAP = torch.tensor([[0.3, 0.1, 5.0], [0.0, 0.6, -0.3], [1.0, 1.0, 1.0]], dtype=torch.float64)


def at(level, gap=GAP):
    logp = (OLD + gap).requires_grad_()
    return logp, log_ratio(logp, OLD, MASK, level)


def test_values():
    token = [[0.3, 0.1, 0], [0, 0.6, -0.3], [0, 0, 0]]
    mean = [[0.2, 0.2, 0], [0.1, 0.1, 0.1], [0, 0, 0]]
    total = [[0.4, 0.4, 0], [0.3, 0.3, 0.3], [0, 0, 0]]
    for level, expected in {"token": token, "sequence": mean, "sequence_token": mean, "product": total}.items():
        assert torch.allclose(at(level)[1], torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_gradients():
    """Of the first action's log-ratio alone: 1 to itself per token; 1/length to each action per sequence."""
    third = [1 / 3, 1 / 3, 1 / 3]
    expected = {"token": [1, 0, 0], "sequence": third, "sequence_token": [1, 0, 0], "product": [1, 1, 1]}
    assert set(expected) == set(LEVELS)
    for level, row in expected.items():
        logp, value = at(level)
        value[1, 0].backward()
        assert logp.grad[1].tolist() == pytest.approx(row)
        assert logp.grad[0].abs().sum() == 0


@pytest.mark.parametrize("level", LEVELS)
def test_masked_entries_may_hold_anything(level):
    logp = torch.where(MASK, OLD + GAP, torch.nan).requires_grad_()
    value = log_ratio(logp, torch.where(MASK, OLD, -torch.inf), MASK, level)
    assert torch.equal(value, at(level)[1])
    value.sum().backward()
    assert logp.grad[~MASK].tolist() == [0.0] * 4


@pytest.mark.parametrize("level", LEVELS)
def test_equal_log_probs_give_exactly_one(level):
    logp, value = at(level, 0 * GAP)
    assert torch.equal(ratio(value), torch.ones_like(logp))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("gap", [500.0, -500.0])
def test_a_gap_of_500_is_finite_and_keeps_its_gradient(level, gap):
    logp, value = at(level, torch.full_like(GAP, gap))
    r = ratio(value)
    assert r[1].tolist() == pytest.approx([math.exp(math.copysign(20, gap))] * 3)
    value.sum().backward()
    assert logp.grad[1].tolist() == pytest.approx([3.0 if level == "product" else 1.0] * 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_the_sum(dtype):
    """2049 terms of 1/1024: a float16 or bfloat16 sum would stall; the mean must come out."""
    gap = torch.full((1, 2049), 2.0**-10, dtype=dtype)
    mask = torch.ones(1, 2049, dtype=torch.bool)
    value = log_ratio(gap, torch.zeros_like(gap), mask, "sequence")
    assert value.dtype == torch.float32
    assert value[0, 0].item() == pytest.approx(2.0**-10, rel=1e-5)
