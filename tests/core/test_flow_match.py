"""The path from data to noise and its times, against numbers by hand, identities and known distributions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core import flow_match as flow
from mmrl.core.registry import Hook

# Two samples of two elements; t differs between them.
CLEAN = torch.tensor([[1.0, -2.0], [0.0, 4.0]], dtype=torch.float64)
NOISE = torch.tensor([[3.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
T = torch.tensor([0.25, 0.5], dtype=torch.float64)
X = torch.tensor([[1.5, -1.5], [-0.5, 2.5]], dtype=torch.float64)  # 0.75 (1, -2) + 0.25 (3, 0); the middle
V = torch.tensor([[2.0, 2.0], [-1.0, -3.0]], dtype=torch.float64)


def test_the_path_by_hand():
    assert flow.noised(CLEAN, NOISE, T).tolist() == X.tolist()
    assert flow.target(CLEAN, NOISE).tolist() == V.tolist()
    # (2 - 1)^2 and (2 - 4)^2, mean 2.5; (-1 - 0)^2 and (-3 + 3)^2, mean 0.5.
    off = torch.tensor([[1.0, 4.0], [0.0, -3.0]], dtype=torch.float64)
    assert flow.matching_error(off, CLEAN, NOISE).tolist() == [2.5, 0.5]


@given(st.floats(0.01, 0.99), st.integers(0, 1000))
def test_each_of_velocity_data_and_noise_tells_the_others(t, seed):
    g = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 3, 2, 2, generator=g, dtype=torch.float64)
    times = torch.full((3,), t, dtype=torch.float64)
    x, v = flow.noised(clean, noise, times), flow.target(clean, noise)
    for told, wanted in (
        (flow.clean_of(x, v, times), clean),
        (flow.noise_of(x, v, times), noise),
        (flow.velocity_of_clean(x, clean, times), v),
        (flow.velocity_of_noise(x, noise, times), v),
    ):
        torch.testing.assert_close(told, wanted, rtol=0, atol=1e-11)


def test_at_its_ends_the_path_says_nothing_of_the_velocity():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="t above 0"):
        flow.velocity_of_clean(X, CLEAN, ends)
    with pytest.raises(ValueError, match="t below 1"):
        flow.velocity_of_noise(X, NOISE, ends)


def test_nothing_broadcasts_and_half_precision_is_computed_in_float32():
    with pytest.raises(ValueError, match="one number for each of 2"):
        flow.noised(CLEAN, NOISE, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="same shape"):
        flow.distance(CLEAN, NOISE[:1])
    assert flow.noised(CLEAN.bfloat16(), NOISE.half(), T).dtype == torch.float32


def test_an_error_is_of_its_own_sample_alone():
    velocity = V.clone().requires_grad_()
    flow.matching_error(velocity + 1, CLEAN, NOISE)[0].backward()
    assert velocity.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]  # 2 x 1 / 2 elements


# ------------------------------------------------------------------ times

HOOKS = [
    Hook("uniform"),
    Hook("uniform", {"low": 0.2, "high": 0.6}),
    Hook("uniform", {"shift": 3.0}),
    Hook("logit_normal"),
    Hook("logit_normal", {"mean": -0.5, "std": 0.7, "shift": 2.0}),
]


@pytest.mark.parametrize("hook", HOOKS, ids=str)
def test_times_rise_with_the_draw_and_stay_inside(hook):
    """So quantiles of the draw are quantiles of the time, and stratified draws are stratified times."""
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    t = flow.TIMES.bind(hook)(u)
    assert bool((t.diff() > 0).all()) and float(t[0]) > 0 and float(t[-1]) < 1


def test_times_by_hand():
    half = torch.tensor([0.5], dtype=torch.float64)
    assert flow.TIMES.bind(Hook("uniform", {"low": 0.2, "high": 0.6}))(half).item() == pytest.approx(0.4)
    assert flow.TIMES.bind(Hook("uniform", {"shift": 3.0}))(half).item() == pytest.approx(0.75)  # 1.5 / 2
    # The median is sigmoid(mean), and Phi(1) = 0.8413447 of the times lie below sigmoid(mean + std).
    normal = flow.TIMES.bind(Hook("logit_normal", {"mean": -0.5, "std": 0.7}))
    assert normal(half).item() == pytest.approx(0.3775406688)
    assert normal(torch.tensor([0.8413447460685429], dtype=torch.float64)).item() == pytest.approx(0.5498339973)


def test_a_shift_is_the_change_of_variable_of_the_samplers():
    """Its ends stay, it undoes its inverse, and two of them multiply."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert flow.shifted(t, 3.0)[[0, -1]].tolist() == [0, 1]
    torch.testing.assert_close(flow.shifted(flow.shifted(t, 3.0), 1 / 3), t)
    torch.testing.assert_close(flow.shifted(flow.shifted(t, 3.0), 2.0), flow.shifted(t, 6.0))


def test_bounds_that_cross_are_refused():
    with pytest.raises(ValueError, match="swap them"):
        flow.TIMES.check(Hook("uniform", {"low": 0.6, "high": 0.2}))


def test_stratified_draws_have_one_in_each_part():
    u = torch.rand(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = flow.stratified(u)
    assert bool(((drawn * 4).floor() == torch.arange(4)).all())
    assert flow.stratified(torch.tensor([[0.5, 0.0, 0.25, 0.75]])).tolist() == [[0.125, 0.25, 0.5625, 0.9375]]
