"""KL estimators against a categorical distribution summed out, and the Gaussian against torch's."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mmrl.core.kl import ESTIMATORS, gaussian, k1, k2, k3

LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)
REFERENCE = torch.log_softmax(torch.tensor([0.0, 0.4, 1.0, -0.7], dtype=torch.float64), 0)


def test_hand_values():
    """p = 1/2, q = 1/4: log p - log q = ln 2."""
    logp, logq = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert k1(logp, logq).item() == pytest.approx(math.log(2))
    assert k2(logp, logq).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3(logp, logq).item() == pytest.approx(0.5 + math.log(2) - 1)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(name):
    logp = torch.log_softmax(LOGITS, 0)
    exact = (logp.exp() * (logp - REFERENCE)).sum()
    expected = (logp.exp() * ESTIMATORS[name](logp, REFERENCE)).sum()
    assert expected.item() == pytest.approx(exact.item(), abs=1e-12)


def test_expected_gradients():
    """Over actions drawn from the policy: k1's is 0, k2's is that of the true KL."""
    logits = LOGITS.clone().requires_grad_()
    logp = torch.log_softmax(logits, 0)
    p = logp.exp()
    (exact,) = torch.autograd.grad((p * (logp - REFERENCE)).sum(), logits, retain_graph=True)
    fixed = p.detach()
    (of_k1,) = torch.autograd.grad((fixed * k1(logp, REFERENCE)).sum(), logits, retain_graph=True)
    (of_k2,) = torch.autograd.grad((fixed * k2(logp, REFERENCE)).sum(), logits)
    assert torch.allclose(of_k1, torch.zeros_like(exact), atol=1e-12)
    assert torch.allclose(of_k2, exact, atol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_zero_at_the_reference_and_finite_far_from_it(name):
    here = torch.tensor([-3.0])
    assert ESTIMATORS[name](here, here).item() == 0
    for gap in (500.0, -500.0):
        assert ESTIMATORS[name](here, here + gap).isfinite().all()


def test_k3_is_never_negative():
    gap = torch.linspace(-30, 30, 300, dtype=torch.float64)
    assert (k3(gap, torch.zeros_like(gap)) > 0).all()


@pytest.mark.parametrize("gap", [1e-4, -1e-4, 1e-3])
def test_k3_resolves_small_gaps_in_float32(gap):
    """gap^2/2 to first order: steps of diffusion differ by this little, below what float32 holds next to 1."""
    value = k3(torch.tensor([-gap]), torch.tensor([0.0]))
    assert value.item() == pytest.approx(gap**2 / 2 + gap**3 / 6, rel=1e-3)


def test_gaussian_agrees_with_torch():
    mean, other = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    std = torch.rand(3, 1, dtype=torch.float64) + 0.1
    expected = kl_divergence(Normal(mean, std), Normal(other, std))
    assert torch.allclose(gaussian(mean, other, std), expected, atol=1e-12)
    assert gaussian(torch.tensor(2.0), torch.tensor(0.0), 0.5).item() == 8.0
