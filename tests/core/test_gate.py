"""Gates: the coefficient against autograd of the published surrogate, and against hand values."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import full
from mmrl.core.gate import GATES, clip_flags, dppo
from mmrl.core.registry import Hook
from mmrl.core.resolving import GATE_RATIO

OPTIONS = {
    "two_sided": {"clip_bound": 3.0},
    "dual_clip": {"clip_bound": 3.0},
    "absolute": {"low": 0.3, "high": 4.0},
    "preclip": {"limit": 10.0},
    "cispo": {"cap": 1.5},
    "sapo": {"tau_pos": 1.0, "tau_neg": 1.3},
    "topr": {"cap": 1.2},
    "topr_token": {"cap": 1.2},
}


def algorithm(name, **options):
    hook = {"name": name, **OPTIONS.get(name, {}), **options}
    return Algorithm(gate=hook, ratio=GATE_RATIO.get(name, "token"), clip_low=0.2, clip_high=0.28)


def searched(rows, low=0.7, high=1.6, divergence=1.0):
    """A micro-batch that carries the bounds that `bapo` looks for, far from the policy that sampled (`dppo`)."""
    column = torch.ones(rows, dtype=torch.float64)
    batch = full(torch.zeros(rows, dtype=torch.int64))
    far = torch.full((rows, 1), divergence, dtype=torch.float64)
    return batch.having(columns={"gate_low": low * column, "gate_high": high * column}, features={"divergence": far})


def c(name, ratio, advantage, **options):
    made = algorithm(name, **options)
    return GATES.bind(made.gate)(ratio, advantage, made, searched(len(ratio)))


def clipped(r, a, low=0.8, high=1.28):
    return torch.minimum(r * a, r.clamp(low, high) * a)


def dual(r, a, inner):
    return torch.where(a < 0, torch.maximum(inner, 3.0 * a), inner)


def soft(r, a):
    tau = torch.where(a > 0, torch.ones_like(r), torch.full_like(r, 1.3))
    return 4 / tau / (1 + torch.exp(-tau * (r - 1))) * a


def tapered(r, a):
    return torch.where(a >= 0, a * r.log(), r.clamp(0, 1.2).detach() * a * r.log())


# The surrogates to maximise, as published, written in the ratio; cispo's and topr's in log r = logp - const.
SURROGATES = {
    "ppo": clipped,
    "two_sided": lambda r, a: torch.minimum(r.clamp(max=3.0) * a, r.clamp(0.8, 1.28) * a),
    "dual_clip": lambda r, a: dual(r, a, clipped(r, a)),
    "absolute": lambda r, a: clipped(r, a, 0.3, 4.0),
    "preclip": lambda r, a: clipped(r.log().clamp(math.log(1 / 10), math.log(10)).exp(), a),
    "cispo": lambda r, a: r.clamp(max=1.5).detach() * a * r.log(),
    "sapo": soft,
    "topr": tapered,
    "topr_token": tapered,
    "bapo": lambda r, a: dual(r, a, clipped(r, a, 0.7, 1.6)),
    "dppo": lambda r, a: clipped(r, a, 1.0, 1.0),  # far away no step further is allowed
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
    assert torch.allclose(c(gate, logp.detach().exp(), a) * a, logp.grad, atol=1e-9, rtol=0)


@given(st.sampled_from(sorted(GATES)), st.floats(-100, 100))
def test_on_policy_every_gate_is_reinforce(gate, advantage):
    one = torch.ones(1, 1, dtype=torch.float64)
    assert c(gate, one, advantage * one).item() == pytest.approx(1.0, abs=1e-12)


@given(st.floats(-100, 100), st.floats(0.05, 5), st.floats(0.05, 5))
def test_on_policy_whatever_the_options(advantage, tau_pos, tau_neg):
    one = torch.ones(1, 1, dtype=torch.float64)
    tightest = {
        "sapo": {"tau_pos": tau_pos, "tau_neg": tau_neg},
        "cispo": {"cap": 1},
        "topr": {"cap": 1},
        "absolute": {"low": 1, "high": 1},
    }
    for gate, options in tightest.items():
        assert c(gate, one, advantage * one, **options).item() == pytest.approx(1.0, abs=1e-12)


@given(st.sampled_from(sorted(GATES)), st.floats(-20, 20), st.floats(-10, 10))
def test_no_gate_turns_a_gradient_round_or_amplifies_it(gate, log_r, advantage):
    """TOPR gives up the ratio where A >= 0, so there 1 is the bound. Sigmoids may round up in the last digit."""
    r = torch.tensor([[math.exp(log_r)]], dtype=torch.float64)
    most = max(r.item(), 1.0) if gate in ("topr", "topr_token") and advantage >= 0 else r.item()
    assert 0 <= c(gate, r, torch.full_like(r, advantage)).item() <= most * (1 + 1e-12)


def test_hand_values():
    r = torch.tensor([[0.5, 0.9, 1.2, 1.4, 4.0, 20.0]], dtype=torch.float64)
    plus, minus = torch.ones_like(r), -torch.ones_like(r)
    expected = {
        "ppo": ([0.5, 0.9, 1.2, 0, 0, 0], [0, 0.9, 1.2, 1.4, 4.0, 20.0]),
        "two_sided": ([0.5, 0.9, 1.2, 0, 0, 0], [0, 0.9, 1.2, 1.4, 0, 0]),
        "dual_clip": ([0.5, 0.9, 1.2, 0, 0, 0], [0, 0.9, 1.2, 1.4, 0, 0]),
        "absolute": ([0.5, 0.9, 1.2, 1.4, 4.0, 0], [0.5, 0.9, 1.2, 1.4, 4.0, 20.0]),
        "preclip": ([0.5, 0.9, 1.2, 0, 0, 0], [0, 0.9, 1.2, 1.4, 4.0, 0]),
        "cispo": ([0.5, 0.9, 1.2, 1.4, 1.5, 1.5], [0.5, 0.9, 1.2, 1.4, 1.5, 1.5]),
        "topr": ([1, 1, 1, 1, 1, 1], [0.5, 0.9, 1.2, 1.2, 1.2, 1.2]),
        "bapo": ([0.5, 0.9, 1.2, 1.4, 0, 0], [0, 0.9, 1.2, 1.4, 0, 0]),
        "dppo": ([0.5, 0.9, 0, 0, 0, 0], [0, 0, 1.2, 1.4, 4.0, 20.0]),
        "none": ([0.5, 0.9, 1.2, 1.4, 4.0, 20.0], [0.5, 0.9, 1.2, 1.4, 4.0, 20.0]),
    }
    for gate, (positive, negative) in expected.items():
        assert c(gate, r, plus).tolist() == [positive], gate
        assert c(gate, r, minus).tolist() == [negative], gate


@pytest.mark.parametrize("divergence", [0.0, 0.9e-5, 1e-5, 1.0])
def test_dppo_near_the_sampler_lets_every_ratio_through(divergence):
    """And from its limit on only those that come back; never by their size."""
    r = torch.tensor([[0.01, 0.999, 1.0, 1.001, 50.0]], dtype=torch.float64)
    batch = searched(1, divergence=divergence)
    plus, minus = (dppo(r, sign * torch.ones_like(r), Algorithm(), batch)[0].tolist() for sign in (1.0, -1.0))
    far = divergence >= 1e-5
    assert plus == ([0.01, 0.999, 1.0, 0, 0] if far else r[0].tolist())
    assert minus == ([0, 0, 1.0, 1.001, 50.0] if far else r[0].tolist())


def test_dppo_without_a_divergence_says_who_has_to_give_it():
    r = torch.ones(1, 1)
    with pytest.raises(ValueError, match="divergence"):
        dppo(r, r, Algorithm(), full(torch.zeros(1, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"Batch\.at"):
        dppo(r, r, Algorithm())


def test_sapo_by_hand():
    """r = 2, tau = 1: s = 1/(1+1/e), c = 4 s (1-s) 2; without advantage the other temperature."""
    s, t = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1.3))
    r = torch.full((1, 3), 2.0, dtype=torch.float64)
    got = c("sapo", r, torch.tensor([[1.0, -1.0, 0.0]]))
    other = 8 * t * (1 - t)
    assert got[0].tolist() == pytest.approx([8 * s * (1 - s), other, other], abs=1e-12)


@pytest.mark.parametrize("gate", GATES)
def test_the_largest_ratio_stays_finite_and_in_its_dtype(gate):
    r = torch.tensor([[math.exp(20), math.exp(-20)]], dtype=torch.float32)
    for sign in (1.0, -1.0):
        got = c(gate, r, sign * torch.ones_like(r))
        assert got.isfinite().all()
        assert got.dtype == torch.float32


def test_flags():
    """Columns: far below, below 1 inside, exactly 1, above 1 inside, above, far above."""
    r = torch.tensor([[0.5, 0.9, 1.0, 1.2, 1.4, 4.0]])
    nothing = [False] * 6

    def flags(gate, advantage):
        low, high = clip_flags(r, torch.full_like(r, advantage), algorithm(gate), searched(1))
        return low[0].tolist(), high[0].tolist()

    above, far, below = [r > 1.3 for r in r[0]], [r > 3 for r in r[0]], [r < 0.8 for r in r[0]]
    assert flags("ppo", 1.0) == (nothing, above)
    assert flags("ppo", -1.0) == (below, nothing)
    assert flags("dual_clip", -1.0) == (below, far)
    assert flags("two_sided", -1.0) == (below, far)
    assert flags("bapo", 1.0) == (nothing, far)
    assert flags("bapo", -1.0) == (below, far)
    assert flags("cispo", 1.0) == flags("cispo", -1.0) == (nothing, far)
    for gate in GATES:
        assert flags(gate, 0.0) == (nothing, nothing)
    for gate in ("sapo", "none"):
        assert flags(gate, 1.0) == flags(gate, -1.0) == (nothing, nothing)


@pytest.mark.parametrize("gate", ["ppo", "two_sided", "dual_clip", "preclip"])
def test_an_open_clip_range_is_an_error(gate):
    with pytest.raises(ValueError, match="with_defaults"):
        GATES.bind(Hook(gate))(torch.ones(1, 1), torch.ones(1, 1), Algorithm(gate=gate, clip_low=0.2))


def test_searched_bounds_that_are_missing_are_an_error():
    for batch in (None, full(torch.tensor([0]))):
        with pytest.raises(ValueError, match="prepared"):
            GATES.bind(Hook("bapo"))(torch.ones(1, 1), torch.ones(1, 1), Algorithm(gate="bapo"), batch)
