"""Gates: the coefficient against autograd of the published surrogate, and against hand values."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.algorithm import Algorithm
from mmrl.core.gate import GATES, clip_flags

BOUNDS = {"clip_low": 0.2, "clip_high": 0.28, "clip_bound": 3.0, "cap": 1.5, "tau_pos": 1.0, "tau_neg": 1.3}


def algorithm(gate):
    return Algorithm(gate=gate, **BOUNDS)


def clipped(r, a):
    return torch.minimum(r * a, r.clamp(0.8, 1.28) * a)


def soft(r, a):
    tau = torch.where(a > 0, torch.ones_like(r), torch.full_like(r, 1.3))
    return 4 / tau / (1 + torch.exp(-tau * (r - 1))) * a


# The surrogates to maximise, as published, written in the ratio; cispo's in log r = logp - const.
SURROGATES = {
    "ppo": clipped,
    "two_sided": lambda r, a: torch.minimum(r.clamp(max=3.0) * a, r.clamp(0.8, 1.28) * a),
    "dual_clip": lambda r, a: torch.where(a < 0, torch.maximum(clipped(r, a), 3.0 * a), clipped(r, a)),
    "cispo": lambda r, a: r.clamp(max=1.5).detach() * a * r.log(),
    "sapo": soft,
    "none": lambda r, a: r * a,
}
LOG_RATIOS = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]  # no grid point lies on a bound
ADVANTAGES = torch.tensor([[-2.0, -0.5, 0.0, 0.7, 3.0]], dtype=torch.float64)


def test_every_gate_has_a_surrogate():
    assert set(SURROGATES) == set(GATES)


@pytest.mark.parametrize("gate", GATES)
def test_coefficient_is_the_gradient_of_the_surrogate(gate):
    logp = LOG_RATIOS.expand(-1, 5).clone().requires_grad_()
    a = ADVANTAGES.expand(61, -1)
    SURROGATES[gate](logp.exp(), a).sum().backward()
    c = GATES[gate](logp.detach().exp(), a, algorithm(gate))
    assert torch.allclose(c * a, logp.grad, atol=1e-9, rtol=0)


@given(st.sampled_from(sorted(GATES)), st.floats(-100, 100), st.floats(0.05, 5), st.floats(0.05, 5))
def test_on_policy_every_gate_is_reinforce(gate, advantage, tau_pos, tau_neg):
    open_ = Algorithm(gate=gate, clip_low=1e-4, clip_high=1e-4, cap=1.0, tau_pos=tau_pos, tau_neg=tau_neg)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert GATES[gate](one, advantage * one, open_).item() == pytest.approx(1.0, abs=1e-12)


@given(st.sampled_from(sorted(GATES)), st.floats(-20, 20), st.floats(-10, 10))
def test_no_gate_turns_a_gradient_round_or_amplifies_it(gate, log_r, advantage):
    r = torch.tensor([[math.exp(log_r)]], dtype=torch.float64)
    c = GATES[gate](r, torch.full_like(r, advantage), algorithm(gate))
    assert 0 <= c.item() <= r.item()


def test_hand_values():
    r = torch.tensor([[0.5, 0.9, 1.2, 1.4, 4.0]], dtype=torch.float64)
    plus, minus = torch.ones_like(r), -torch.ones_like(r)
    expected = {
        "ppo": ([0.5, 0.9, 1.2, 0, 0], [0, 0.9, 1.2, 1.4, 4.0]),
        "two_sided": ([0.5, 0.9, 1.2, 0, 0], [0, 0.9, 1.2, 1.4, 0]),
        "dual_clip": ([0.5, 0.9, 1.2, 0, 0], [0, 0.9, 1.2, 1.4, 0]),
        "cispo": ([0.5, 0.9, 1.2, 1.4, 1.5], [0.5, 0.9, 1.2, 1.4, 1.5]),
        "none": ([0.5, 0.9, 1.2, 1.4, 4.0], [0.5, 0.9, 1.2, 1.4, 4.0]),
    }
    for gate, (positive, negative) in expected.items():
        assert GATES[gate](r, plus, algorithm(gate)).tolist() == [positive]
        assert GATES[gate](r, minus, algorithm(gate)).tolist() == [negative]


def test_sapo_by_hand():
    """r = 2, tau = 1: s = 1/(1+1/e), c = 4 s (1-s) 2; without advantage the other temperature."""
    s, t = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1.3))
    r = torch.full((1, 3), 2.0, dtype=torch.float64)
    got = GATES["sapo"](r, torch.tensor([[1.0, -1.0, 0.0]]), algorithm("sapo"))
    other = 8 * t * (1 - t)
    assert got[0].tolist() == pytest.approx([8 * s * (1 - s), other, other], abs=1e-12)


@pytest.mark.parametrize("gate", GATES)
def test_the_largest_ratio_stays_finite(gate):
    r = torch.tensor([[math.exp(20), math.exp(-20)]], dtype=torch.float32)
    for sign in (1.0, -1.0):
        assert GATES[gate](r, sign * torch.ones_like(r), algorithm(gate)).isfinite().all()


def test_flags():
    """Columns: far below, below 1 inside, exactly 1, above 1 inside, above, far above."""
    r = torch.tensor([[0.5, 0.9, 1.0, 1.2, 1.4, 4.0]])
    nothing = [False] * 6

    def flags(gate, advantage):
        low, high = clip_flags(r, torch.full_like(r, advantage), algorithm(gate))
        return low[0].tolist(), high[0].tolist()

    above, far, below = [r > 1.3 for r in r[0]], [r > 3 for r in r[0]], [r < 0.8 for r in r[0]]
    assert flags("ppo", 1.0) == (nothing, above)
    assert flags("ppo", -1.0) == (below, nothing)
    assert flags("dual_clip", -1.0) == (below, far)
    assert flags("two_sided", -1.0) == (below, far)
    assert flags("cispo", 1.0) == flags("cispo", -1.0) == (nothing, far)
    for gate in GATES:
        assert flags(gate, 0.0) == (nothing, nothing)
    for gate in ("sapo", "none"):
        assert flags(gate, 1.0) == flags(gate, -1.0) == (nothing, nothing)


@pytest.mark.parametrize("gate", ["ppo", "two_sided", "dual_clip"])
def test_an_open_clip_range_is_an_error(gate):
    with pytest.raises(ValueError, match="with_defaults"):
        GATES[gate](torch.ones(1, 1), torch.ones(1, 1), Algorithm(gate=gate, clip_low=0.2))
