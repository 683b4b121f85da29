"""Golden tests of the transition kernels: closed forms, hand-worked numbers, invariances."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from mmrl.modalities.image.kernels import (
    KERNELS,
    Transition,
    cps,
    dance_sde,
    ddim,
    find_kernel,
    flow_sde,
    gaussian_kl,
    log_prob,
    ode,
    ratio_norm,
    renoise,
    sample,
)

FLOW_KERNELS = [name for name, spec in KERNELS.items() if spec.time == "flow"]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def transition(mean: Tensor, std: float, dt: float = -0.1) -> Transition:
    ones = torch.ones(len(mean), *[1] * (mean.ndim - 1), dtype=mean.dtype)
    return Transition(mean, std * ones, dt * ones)


def gaussian_target(t: float, mu: float, sd: float) -> tuple[float, float]:
    """Mean and variance of x_t when x0 ~ N(mu, sd^2)."""
    return (1 - t) * mu, ((1 - t) * sd) ** 2 + t**2


def gaussian_velocity(x: Tensor, t: float, mu: float, sd: float) -> Tensor:
    """E[eps - x0 | x_t] for x0 ~ N(mu, sd^2), from the regression of eps and x0 on x_t."""
    mean, variance = gaussian_target(t, mu, sd)
    return (t - (1 - t) * sd**2) * (x - mean) / variance - mu


# ---- recipes --------------------------------------------------------------------------------------------


# One element, x = 1, v = 2, worked by hand: (kernel, t, t_next, level, t_max) -> mean, std.
HAND_TABLE = [
    (flow_sde, 0.5, 0.4, 0.7, None, 0.702, 0.7 * math.sqrt(0.1)),  # 1 (1 - .049) + 2 (1 + .245)(-.1)
    (flow_sde, 0.8, 0.7, 1.0, 0.8, 0.45, math.sqrt(0.4)),  # not above t_max: g^2 = .8 / .2; .75 - .3
    (flow_sde, 0.8, 0.7, 0.5, 0.6, 0.75625, math.sqrt(0.05)),  # above t_max: g^2 = .25 (.8 / .4); .96875 - .2125
    (flow_sde, 1.0, 0.9, 0.7, 0.9, 0.555, 0.7),  # g^2 = .49 / .1; 1 (1 - .245) - .2; std^2 = 4.9 (.1)
    (dance_sde, 0.5, 0.4, 0.3, None, 0.782, 0.3 * math.sqrt(0.1)),  # score -4; 1 + (2 + .045 * 4)(-.1)
    (cps, 0.5, 0.4, 0.5, None, 0.4 * math.sqrt(2), 0.2 * math.sqrt(2)),  # x0hat 0, x1hat 2
    (renoise, 0.5, 0.4, 1.0, None, 0.0, 0.4),
    (renoise, 0.25, 0.2, 1.0, None, 0.4, 0.2),  # .8 (1 - .5)
    (ode, 0.5, 0.4, 0.0, None, 0.8, 0.0),
]


@pytest.mark.parametrize(("kernel", "t", "t_next", "level", "t_max", "mean", "std"), HAND_TABLE)
def test_recipes_agree_with_numbers_worked_by_hand(kernel, t, t_next, level, t_max, mean, std):
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    step = kernel(x, 2 * x, t, t_next, level, t_max)
    assert step.mean.item() == pytest.approx(mean, abs=1e-12)
    assert step.std.item() == pytest.approx(std, abs=1e-12)
    assert step.dt.item() == pytest.approx(t_next - t, abs=1e-12)


@pytest.mark.parametrize("t", [0.02, 0.3, 0.97])
def test_velocity_gives_the_score_of_a_gaussian_target(t):
    # The SDE recipes must contain -(x + (1 - t) v) / t, which autograd of the true density confirms.
    x = normal(4, 3).requires_grad_()
    mean, variance = gaussian_target(t, 0.7, 0.6)
    marginal = Normal(torch.tensor(mean, dtype=x.dtype), torch.tensor(math.sqrt(variance), dtype=x.dtype))
    (score,) = torch.autograd.grad(marginal.log_prob(x).sum(), x)
    velocity = gaussian_velocity(x.detach(), t, 0.7, 0.6)
    dt, level = -0.01, 0.8
    generic = x.detach() + (velocity - 0.5 * level**2 * score) * dt
    assert (dance_sde(x.detach(), velocity, t, t + dt, level).mean - generic).abs().max() < 1e-12
    g_squared = level**2 * t / (1 - t)
    generic = x.detach() + (velocity - 0.5 * g_squared * score) * dt
    assert (flow_sde(x.detach(), velocity, t, t + dt, level).mean - generic).abs().max() < 1e-12


@settings(deadline=None, max_examples=50)
@given(t=st.floats(0.05, 0.95), share=st.floats(0.0, 0.95), level=st.floats(0.05, 1.5))
def test_flow_sde_is_dance_sde_with_its_own_diffusion(t, share, level):
    x, v = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    flow = flow_sde(x, v, t, t * share, level)
    dance = dance_sde(x, v, t, t * share, level * math.sqrt(t / (1 - t)))
    assert (flow.mean - dance.mean).abs().max() < 1e-12
    assert (flow.std - dance.std).abs().max() < 1e-12


@settings(deadline=None, max_examples=50)
@given(t=st.floats(0.05, 1.0), share=st.floats(0.0, 0.95), level=st.floats(0.0, 1.0))
def test_cps_keeps_the_total_noise_at_t_next(t, share, level):
    # v = eps - x0 with x0 = 0 makes the mean the coefficient of x1hat alone.
    eps = torch.ones(2, 3, dtype=torch.float64)
    step = cps(t * eps, eps, t, t * share, level)
    assert ((step.std**2 + step.mean**2) - (t * share) ** 2).abs().max() < 1e-12


def test_cps_spans_the_ode_and_the_renoising_student():
    x, v = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    torch.testing.assert_close(cps(x, v, 0.8, 0.5, 0.0).mean, ode(x, v, 0.8, 0.5).mean)
    student, noisy = renoise(x, v, 0.8, 0.5), cps(x, v, 0.8, 0.5, 1.0)
    torch.testing.assert_close(noisy.mean, student.mean)
    torch.testing.assert_close(noisy.std, student.std)


@pytest.mark.parametrize("kernel", [flow_sde, dance_sde])
def test_level_zero_is_the_ode(kernel):
    x, v = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    step = kernel(x, v, 0.8, 0.5, 0.0)
    torch.testing.assert_close(step.mean, ode(x, v, 0.8, 0.5).mean)
    assert step.std.abs().max() == 0


def test_ode_step_is_exact_for_a_straight_path():
    x0, eps = normal(2, 3), normal(2, 3, seed=1)
    step = ode(0.1 * x0 + 0.9 * eps, eps - x0, 0.9, 0.2)
    torch.testing.assert_close(step.mean, 0.8 * x0 + 0.2 * eps)


def marginal_error(kernel, level: float, n: int) -> float:
    """Largest error of mean and variance from t = .9 to .1, propagated exactly, without sampling."""
    mu, sd = 0.7, 0.5
    times = torch.linspace(0.9, 0.1, n + 1, dtype=torch.float64).tolist()
    mean, variance = gaussian_target(times[0], mu, sd)
    worst = 0.0
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for t, t_next in itertools.pairwise(times):
        step = kernel(probe, gaussian_velocity(probe, t, mu, sd), t, t_next, level)
        offset, slope = step.mean[0].item(), (step.mean[1] - step.mean[0]).item()  # the mean is affine in x
        mean, variance = offset + slope * mean, slope**2 * variance + step.std[0].item() ** 2
        true_mean, true_variance = gaussian_target(t_next, mu, sd)
        worst = max(worst, abs(mean - true_mean), abs(variance - true_variance))
    return worst


@pytest.mark.parametrize(("kernel", "level"), [(flow_sde, 0.7), (flow_sde, 1.2), (dance_sde, 0.3)])
def test_sde_keeps_the_marginals_of_a_gaussian_target(kernel, level):
    coarse, fine = marginal_error(kernel, level, 200), marginal_error(kernel, level, 800)
    assert fine < 3e-3
    assert fine == pytest.approx(coarse / 4, rel=0.2)  # Euler-Maruyama: first order in the step


def ddpm_posterior(x: Tensor, x0: Tensor, ab: float, ab_next: float) -> tuple[Tensor, float]:
    """q(x_{t-1} | x_t, x0) in the form of Ho et al. 2020, eq. 7."""
    alpha = ab / ab_next
    beta = 1 - alpha
    mean = (math.sqrt(ab_next) * beta * x0 + math.sqrt(alpha) * (1 - ab_next) * x) / (1 - ab)
    return mean, (1 - ab_next) / (1 - ab) * beta


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(("ab", "ab_next"), [(0.05, 0.11), (0.5, 0.6), (0.99, 0.999), (0.7, 1.0)])
def test_ddim_at_eta_one_is_the_ddpm_posterior(prediction, ab, ab_next):
    x0, eps = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    x = math.sqrt(ab) * x0 + math.sqrt(1 - ab) * eps
    output = {"epsilon": eps, "sample": x0, "v_prediction": math.sqrt(ab) * eps - math.sqrt(1 - ab) * x0}
    step = ddim(x, output[prediction], ab, ab_next, 1.0, prediction)
    mean, variance = ddpm_posterior(x, x0, ab, ab_next)
    assert (step.mean - mean).abs().max() < 1e-12
    assert (step.std**2 - variance).abs().max() < 1e-12


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_keeps_the_total_noise(eta):
    eps = torch.ones(1, 2, dtype=torch.float64)
    step = ddim(math.sqrt(0.8) * eps, eps, 0.2, 0.5, eta)  # x0 = 0
    assert (step.mean**2 + step.std**2 - 0.5).abs().max() < 1e-12


def test_ddim_from_pure_noise_needs_a_prediction_that_knows_the_sample():
    x = normal(2, 3)
    step = ddim(x, -x, 0.0, 0.3, 1.0, "v_prediction")  # v = -x0 at alpha_bar 0
    torch.testing.assert_close(step.mean, math.sqrt(0.3) * x)
    with pytest.raises(ValueError, match="v_prediction"):
        ddim(x, x, 0.0, 0.3, 1.0, "epsilon")


# ---- shapes, precision, edges ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOW_KERNELS)
def test_times_per_sample_equal_scalar_times_bit_for_bit(name):
    kernel = KERNELS[name].function
    x, v = normal(3, 2, 5, 5, dtype=torch.float32), normal(3, 2, 5, 5, seed=1, dtype=torch.float32)
    t, t_next = [1.0, 0.63, 0.21], [0.85, 0.4, 0.0]
    together = kernel(x, v, torch.tensor(t), torch.tensor(t_next), 0.7, 0.85)
    for i in range(3):
        alone = kernel(x[i : i + 1], v[i : i + 1], t[i], t_next[i], 0.7, 0.85)
        for field in ("mean", "std", "dt"):
            assert torch.equal(getattr(alone, field)[0], getattr(together, field)[i])
    assert together.std.shape == together.dt.shape == (3, 1, 1, 1)


@pytest.mark.parametrize("name", FLOW_KERNELS)
def test_first_and_last_step_are_finite(name):
    x = normal(2, 4, dtype=torch.float32)
    for t, t_next in [(1.0, 0.9), (0.1, 0.0), (1.0 - 6e-8, 0.9), (1.0 + 1.2e-7, 0.9)]:
        step = KERNELS[name].function(x, x, t, t_next, 0.7, 0.9)
        assert torch.isfinite(step.mean).all()
        assert torch.isfinite(step.std).all()
        assert step.mean.abs().max() < 100


def test_one_step_schedule_and_missing_t_max():
    x = torch.ones(1, 2, dtype=torch.float64)
    assert flow_sde(x, x, 1.0, 0.0, 0.5, 0.0).std.item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="t_max"):
        flow_sde(x, x, 1.0, 0.9, 0.5)


def test_half_precision_input_is_computed_in_float32():
    x, v = normal(2, 3, 4).bfloat16(), normal(2, 3, 4, seed=1).bfloat16()
    step = flow_sde(x, v, 0.5, 0.4, 0.7)
    assert step.mean.dtype == step.std.dtype == torch.float32
    assert torch.equal(step.mean, flow_sde(x.float(), v.float(), 0.5, 0.4, 0.7).mean)


def test_wrong_inputs_say_what_to_do():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="sigmas, not the model's"):
        flow_sde(x, x, 500.0, 400.0, 0.7)
    with pytest.raises(ValueError, match="t_next < t"):
        ode(x, x, 0.4, 0.5)
    with pytest.raises(ValueError, match=r"outside \[0, 1.0\]"):
        cps(x, x, 0.5, 0.4, 1.2)
    with pytest.raises(ValueError, match="model output has shape"):
        ode(x, x[:1], 0.5, 0.4)
    with pytest.raises(ValueError, match=r"expected a number or \[2\]"):
        ode(x, x, torch.full((2, 1), 0.5), 0.4)
    with pytest.raises(ValueError, match="alpha_bar < alpha_bar_next"):
        ddim(x, x, 0.5, 0.5, 1.0)
    with pytest.raises(ValueError, match="v_prediction"):
        ddim(x, x, 0.4, 0.5, 1.0, "velocity")
    with pytest.raises(ValueError, match=r"Transition.std has shape \(2,\)"):
        Transition(x, torch.ones(2), torch.ones(2, 1))
    with pytest.raises(ValueError, match="did you mean 'flow_sde'"):
        find_kernel("flow_sd")


def test_defaults_of_the_kernels_are_the_published_ones():
    clip = {"flow_sde": 1e-4, "dance_sde": 1e-4, "ddim": 1e-4, "cps": 1e-5, "renoise": 1e-4, "ode": None}
    assert {name: spec.clip_range for name, spec in KERNELS.items()} == clip
    assert [name for name, spec in KERNELS.items() if not spec.normalised] == ["cps"]
    assert [name for name, spec in KERNELS.items() if not spec.stochastic] == ["ode"]
    assert all(spec.reduction == "mean" for spec in KERNELS.values())


# ---- log-prob and rounding ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 2, 4, 4)])
def test_log_prob_is_the_gaussian_density_per_sample(shape):
    mean, x_next = normal(*shape), normal(*shape, seed=1)
    density = Normal(mean, 0.3).log_prob(x_next).reshape(3, -1)
    torch.testing.assert_close(log_prob(x_next, transition(mean, 0.3)), density.mean(1))
    torch.testing.assert_close(log_prob(x_next, transition(mean, 0.3), "sum"), density.sum(1))
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        log_prob(x_next, transition(mean, 0.3), "max")


@pytest.mark.parametrize("t_next", [0.02, 0.5, 0.96])
def test_the_log_prob_of_a_few_step_students_step_is_that_of_the_noise_it_drew(t_next):
    """x' = (1 - t') x0hat + t' noise: the normal density of the noise, by the change of variable less log t'. Moving
    x0hat moves it by noise (1 - t') / t' an element."""
    x, noise, velocity = normal(3, 2, 4), normal(3, 2, 4, seed=1), normal(3, 2, 4, seed=2).requires_grad_()
    step = renoise(x, velocity, 0.98, t_next)
    after = sample(step, noise, torch.float64).detach()
    found = log_prob(after, step)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(noise).flatten(1).mean(1) - math.log(t_next)
    torch.testing.assert_close(found, wanted.double())
    found.sum().backward()
    torch.testing.assert_close(velocity.grad, -0.98 * noise * (1 - t_next) / t_next / 8)


def test_gradient_of_the_log_prob():
    mean, x_next = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1)
    log_prob(x_next, transition(mean, 0.3)).sum().backward()
    torch.testing.assert_close(mean.grad, (x_next - mean.detach()) / (0.09 * 12))


def test_zero_std_is_an_error_and_never_nan():
    x = normal(2, 3, dtype=torch.float32)
    step = ode(x, x, 0.5, 0.4)
    mixed = cps(x, x, torch.tensor([0.5, 0.1]), torch.tensor([0.4, 0.0]), 0.5)  # only the second row ends
    for deterministic in (step, mixed):
        with pytest.raises(ValueError, match="deterministic"):
            log_prob(x, deterministic)
        with pytest.raises(ValueError, match="deterministic"):
            gaussian_kl(x, x, deterministic.std)
        with pytest.raises(ValueError, match="deterministic"):
            ratio_norm(x[:, 0], x[:, 0], x, x, deterministic.std, deterministic.dt)
    unnormalised = log_prob(x + 0.5, transition(x, 0.0), normalised=False)
    torch.testing.assert_close(unnormalised, torch.full((2,), -0.25))


def test_x_next_must_not_broadcast():
    with pytest.raises(ValueError, match="x_next has shape"):
        log_prob(torch.zeros(1, 3), transition(torch.zeros(2, 3), 1.0))
    with pytest.raises(ValueError, match="noise has shape"):
        sample(transition(torch.zeros(2, 3), 1.0), torch.zeros(1, 3), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["flow_sde", "dance_sde", "cps", "renoise"])
def test_first_ratio_is_exactly_one_when_rounding_precedes_the_log_prob(name, dtype):
    spec = KERNELS[name]
    stored = normal(4, 4, 16, 16, dtype=torch.float32).to(dtype)
    velocity = normal(4, 4, 16, 16, seed=1, dtype=torch.float32)
    step = spec.function(stored, velocity, 0.5, 0.45, 0.3)
    x_next = sample(step, normal(4, 4, 16, 16, seed=2), dtype)
    rollout = log_prob(x_next, step, spec.reduction, spec.normalised)
    # Replay: the latents come back from storage, the times as one number per sample.
    times = torch.full((4,), 0.5), torch.full((4,), 0.45)
    replayed_step = spec.function(stored, velocity, *times, 0.3)
    replay = log_prob(x_next.to(dtype), replayed_step, spec.reduction, spec.normalised)
    assert x_next.dtype == torch.float32
    assert torch.equal((replay - rollout).exp(), torch.ones(4))


def bfloat16_rounding_variance() -> float:
    """E[rounding error^2] of a standard normal: ulp^2 / 12 in each binade [2^e, 2^(e+1)), ulp = 2^(e-7)."""

    def mass(e: int) -> float:
        return math.erf(2.0 ** (e + 1) / math.sqrt(2)) - math.erf(2.0**e / math.sqrt(2))

    return sum(mass(e) * 2.0 ** (2 * (e - 7)) / 12 for e in range(-20, 4))


@pytest.mark.parametrize(("std", "published"), [(0.042, -7.8e-4), (0.1, -1.4e-4)])
def test_rounding_after_the_log_prob_shifts_the_ratio_beyond_the_clip_range(std, published):
    size = (1, 2**21)
    step = transition(math.sqrt(1 - std**2) * normal(*size, dtype=torch.float32), std)
    exact = sample(step, normal(*size, seed=1), torch.float32)
    rounded = sample(step, normal(*size, seed=1), torch.bfloat16)
    shift = (log_prob(rounded, step) - log_prob(exact, step)).item()
    expected = -bfloat16_rounding_variance() / (2 * std**2)
    assert expected == pytest.approx(published, rel=0.02)
    # The cross term leaves a standard error of rms(rounding) / (std sqrt(D)).
    assert shift == pytest.approx(expected, abs=4 * math.sqrt(bfloat16_rounding_variance() / size[1]) / std)
    assert abs(shift) > KERNELS["flow_sde"].clip_range


# ---- ratio ----------------------------------------------------------------------------------------------


def test_log_ratio_is_biased_by_half_the_squared_shift_and_ratio_norm_removes_it():
    batch, size, d, std = 64, 65536, 0.02, 0.2
    old = transition(torch.zeros(batch, size), std)
    new = transition(torch.full((batch, size), d * std), std)
    x_next = sample(old, normal(batch, size, dtype=torch.float32), torch.float32)
    logp, logp_old = log_prob(x_next, new), log_prob(x_next, old)
    log_ratio = logp - logp_old
    deviation = d / math.sqrt(size)  # 7.8e-5
    assert log_ratio.mean().item() == pytest.approx(-(d**2) / 2, abs=4 * deviation / math.sqrt(batch))
    assert log_ratio.std().item() == pytest.approx(deviation, rel=0.3)
    guarded, weight = ratio_norm(logp, logp_old, new.mean, old.mean, old.std, old.dt)
    assert abs(guarded.mean().item()) < 1e-5
    assert guarded.std().item() == pytest.approx(deviation * std, rel=0.3)
    torch.testing.assert_close(weight, torch.full((batch,), 10.0))


def test_ratio_norm_is_the_linear_log_ratio_of_each_sample():
    # The squares cancel: what is left is mean (x' - m_old)(m - m_old) / std, whatever other rows do.
    x_next, old = normal(3, 2, 4), normal(3, 2, 4, seed=1)
    new = (old + torch.tensor([0.0, 0.5, 2.0]).reshape(3, 1, 1) * normal(3, 2, 4, seed=2)).requires_grad_()
    std = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64).reshape(3, 1, 1)
    step, before = Transition(new, std, -std), Transition(old, std, -std)
    logp, logp_old = log_prob(x_next, step), log_prob(x_next, before)
    guarded, weight = ratio_norm(logp, logp_old, new, old, std.reshape(3), -std)
    linear = ((x_next - old) * (new.detach() - old)).mean((1, 2)) / std.reshape(3)
    torch.testing.assert_close(guarded.detach(), linear)
    assert guarded[0].item() == 0
    torch.testing.assert_close(weight, 1 / std.reshape(3))
    guarded.sum().backward()
    torch.testing.assert_close(new.grad, (x_next - old) / (8 * std))


# ---- KL -------------------------------------------------------------------------------------------------


def test_kl_is_the_closed_form_and_has_a_gradient():
    mean, reference = normal(3, 2, 4).requires_grad_(), normal(3, 2, 4, seed=1)
    std = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64).reshape(3, 1, 1)
    exact = kl_divergence(Normal(mean, std), Normal(reference, std)).detach()
    kl = gaussian_kl(mean, reference, std)
    torch.testing.assert_close(kl.detach(), exact.mean((1, 2)))
    torch.testing.assert_close(gaussian_kl(mean, reference, std, "sum").detach(), exact.sum((1, 2)))
    kl.sum().backward()
    torch.testing.assert_close(mean.grad, (mean.detach() - reference) / (8 * std**2))
    assert torch.equal(gaussian_kl(reference, reference, std), torch.zeros(3, dtype=torch.float64))


def test_published_kl_leaves_out_the_step_length():
    # g = .7 at t = .5, a shift of .3: .09 / (2 * .49), for any step length.
    x = torch.zeros(1, 4, dtype=torch.float64)
    for t_next in (0.4, 0.1):
        step = flow_sde(x, x, 0.5, t_next, 0.7)
        published = gaussian_kl(step.mean + 0.3, step.mean, step.std, published_flow_grpo=True, dt=step.dt)
        assert published.item() == pytest.approx(0.09 / 0.98, abs=1e-12)
    with pytest.raises(ValueError, match="needs dt"):
        gaussian_kl(x, x, step.std, published_flow_grpo=True)
    with pytest.raises(ValueError, match=r"std has shape \(2,\)"):
        gaussian_kl(x, x, torch.ones(2))
