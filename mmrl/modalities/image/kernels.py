"""One Gaussian transition per denoising step, the published recipes for it, its log-prob, ratio and KL.

Flow convention: t is sigma in [0, 1], x_t = (1 - t) x0 + t eps, velocity v = eps - x0, sampling goes from t
to t_next < t, dt = t_next - t < 0. Everything is computed in float32, or in float64 when given float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmrl.near import near, short

Reduction = Literal["mean", "sum"]
Prediction = Literal["velocity", "epsilon", "v_prediction", "sample"]  # what a denoiser's output means

# A shifted schedule's first sigma, s / (1 + (s - 1)), may miss 1 by a float32 rounding in either direction.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Transition:
    """x_next ~ N(mean, std^2 I) for one step of a batch.

    mean: [B, ...]. std, dt: [B, 1, ...], one number per sample, as many dimensions as mean.
    dt is negative; kernels without a continuous time (DDIM) say -1, which makes a weight of 1/|dt| neutral.
    """

    mean: Tensor
    std: Tensor
    dt: Tensor

    def __post_init__(self) -> None:
        # A [B] tensor would silently broadcast against the last axis of the latent.
        expected = (len(self.mean), *[1] * (self.mean.ndim - 1))
        for name, value in (("std", self.std), ("dt", self.dt)):
            if tuple(value.shape) != expected:
                raise ValueError(f"Transition.{name} has shape {tuple(value.shape)}, expected {expected}")


# ---- recipes: flow matching -----------------------------------------------------------------------------


def flow_sde(
    x: Tensor,
    velocity: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    level: float,
    t_max: float | None = None,
) -> Transition:
    """Flow-SDE: Euler-Maruyama with g = level sqrt(t / (1 - t)), std = g sqrt(-dt).

    x, velocity: [B, ...]; t, t_next: float or [B]. t_max, the schedule's second sigma, is the largest t in the
    denominator of g: it stands for the first one, which is 1, or near to it, where g would have no end. ValueError when
    t is 1 and t_max is missing. Source: Flow-GRPO (Liu et al. 2025), whose schedules begin at 1.
    """
    _check_level("flow_sde", level)
    x, velocity = _same_precision(x, velocity)
    t, t_next = _times(x, t, t_next)
    if t_max is None:
        if bool((t > 1 - _ROUNDING).any()):
            raise ValueError("flow_sde at t = 1 divides by zero: pass t_max, the second sigma of the schedule")
        t_below_one = t
    elif 0 <= t_max < 1:
        t_below_one = t.clamp(max=t_max)
    else:
        raise ValueError(f"flow_sde: t_max is the second sigma of the schedule, in [0, 1); got {t_max}")
    g = level * torch.sqrt(t / (1 - t_below_one))
    return _euler_maruyama(x, velocity, t, t_next, g)


def dance_sde(
    x: Tensor,
    velocity: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    level: float,
    t_max: float | None = None,
) -> Transition:
    """Dance-SDE: Euler-Maruyama with constant g = level (the paper's eta), std = level sqrt(-dt).

    Shapes as in `flow_sde`; t_max is not used. Source: DanceGRPO (Xue et al. 2025).
    """
    _check_level("dance_sde", level)
    x, velocity = _same_precision(x, velocity)
    t, t_next = _times(x, t, t_next)
    return _euler_maruyama(x, velocity, t, t_next, torch.full_like(t, level))


def cps(
    x: Tensor,
    velocity: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    level: float,
    t_max: float | None = None,
) -> Transition:
    """Coefficient-preserving sampling: std = t_next sin(level pi / 2), total noise exactly t_next.

    mean = (1 - t_next) x0hat + sqrt(t_next^2 - std^2) x1hat, x0hat = x - t v, x1hat = x + (1 - t) v.
    Shapes as in `flow_sde`; level in [0, 1], 0 is the ODE; t_max is not used. The last step (t_next = 0) has
    std 0. Source: Flow-CPS (Wang & Yu 2025).
    """
    _check_level("cps", level, highest=1.0)
    x, velocity = _same_precision(x, velocity)
    t, t_next = _times(x, t, t_next)
    angle = level * math.pi / 2
    clean, noise = x - t * velocity, x + (1 - t) * velocity
    # sqrt(t_next^2 - std^2) as a cosine: never the root of a negative rounding error.
    mean = (1 - t_next) * clean + t_next * math.cos(angle) * noise
    return Transition(mean, t_next * math.sin(angle), t_next - t)


def ode(
    x: Tensor,
    velocity: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    level: float = 0.0,
    t_max: float | None = None,
) -> Transition:
    """Euler step of the probability-flow ODE, x + v dt, std 0: it has no log-prob.

    Shapes as in `flow_sde`; level and t_max are not used.
    """
    x, velocity = _same_precision(x, velocity)
    t, t_next = _times(x, t, t_next)
    dt = t_next - t
    return Transition(x + velocity * dt, torch.zeros_like(dt), dt)


def renoise(
    x: Tensor,
    velocity: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    level: float = 1.0,
    t_max: float | None = None,
) -> Transition:
    """Step of a few-step student: predict the clean latent, noise it again to t_next.

    mean = (1 - t_next) x0hat, std = t_next. Shapes as in `flow_sde`; level and t_max are not used.
    Source: the multi-step sampler of consistency models and DMD2 (Yin et al. 2024), in flow coordinates.
    """
    x, velocity = _same_precision(x, velocity)
    t, t_next = _times(x, t, t_next)
    return Transition((1 - t_next) * (x - t * velocity), t_next.clone(), t_next - t)


def _euler_maruyama(x: Tensor, velocity: Tensor, t: Tensor, t_next: Tensor, g: Tensor) -> Transition:
    """The SDE with diffusion g and the same marginals as the ODE, one Euler step (Song et al. 2021)."""
    dt = t_next - t
    score = -(x + (1 - t) * velocity) / t
    return Transition(x + (velocity - 0.5 * g**2 * score) * dt, g * torch.sqrt(-dt), dt)


# ---- recipe: variance-preserving diffusion --------------------------------------------------------------


def ddim(
    x: Tensor,
    model_output: Tensor,
    alpha_bar: float | Tensor,
    alpha_bar_next: float | Tensor,
    eta: float,
    prediction: Prediction = "epsilon",
) -> Transition:
    """DDIM step with variance eta^2 times the DDPM posterior's; eta 1 is DDPM, eta 0 has no log-prob.

    x, model_output: [B, ...], x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps. alpha_bar < alpha_bar_next:
    cumulative signal, float or [B]; the last step has alpha_bar_next = 1 (std 0). eta in [0, 1].
    `prediction` says what model_output is: "epsilon", "sample" (x0) or "v_prediction" (Salimans & Ho 2022).
    Source: Song et al. 2020, eq. 12 and 16; as a policy in DDPO (Black et al. 2023).
    """
    _check_level("ddim", eta, highest=1.0)
    x, model_output = _same_precision(x, model_output)
    signal, signal_next = _column("alpha_bar", alpha_bar, x), _column("alpha_bar_next", alpha_bar_next, x)
    if not bool(((signal >= 0) & (signal < signal_next) & (signal_next <= 1)).all()):
        raise ValueError("ddim needs 0 <= alpha_bar < alpha_bar_next <= 1 for every sample")
    clean, noise = _clean_and_noise(x, model_output, signal, prediction)
    variance = eta**2 * (1 - signal_next) / (1 - signal) * (1 - signal / signal_next)
    # The terms cancel at eta = 1, alpha_bar = 0: a device's rounding must not make a nan of it.
    towards_noise = torch.sqrt((1 - signal_next - variance).clamp(min=0))
    mean = torch.sqrt(signal_next) * clean + towards_noise * noise
    return Transition(mean, torch.sqrt(variance), torch.full_like(signal, -1.0))


def _clean_and_noise(x: Tensor, output: Tensor, signal: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
    scale, spread = torch.sqrt(signal), torch.sqrt(1 - signal)
    if prediction == "epsilon":
        if bool((signal == 0).any()):
            raise ValueError(
                "ddim: an epsilon prediction says nothing of the sample at alpha_bar = 0; use a model with "
                "prediction 'v_prediction' or 'sample', or a schedule that starts above 0"
            )
        return (x - spread * output) / scale, output
    if prediction == "sample":
        return output, (x - scale * output) / spread
    if prediction == "v_prediction":
        return scale * x - spread * output, scale * output + spread * x
    raise ValueError(f"unknown prediction {prediction!r}: use 'epsilon', 'v_prediction' or 'sample'")


# ---- registry -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelSpec:
    """A recipe and the defaults that belong to its scale.

    function: (x, model output, time, next time, level, ...) -> Transition.
    clip_range: default PPO clip of the ratio; None where there is no ratio.
    reduction, normalised: how `log_prob` is taken by default.
    stochastic: False when the step has no log-prob at all.
    time: "flow" (t in [0, 1], sixth argument t_max) or "alpha_bar" (sixth argument prediction).
    """

    function: Callable[..., Transition]
    clip_range: float | None
    reduction: Reduction = "mean"
    normalised: bool = True
    stochastic: bool = True
    time: Literal["flow", "alpha_bar"] = "flow"


# Clip ranges are those of the published mean-reduced recipes; renoise has none published and takes theirs.
KERNELS: dict[str, KernelSpec] = {
    "flow_sde": KernelSpec(flow_sde, clip_range=1e-4),
    "dance_sde": KernelSpec(dance_sde, clip_range=1e-4),
    "cps": KernelSpec(cps, clip_range=1e-5, normalised=False),
    "renoise": KernelSpec(renoise, clip_range=1e-4),
    "ddim": KernelSpec(ddim, clip_range=1e-4, time="alpha_bar"),
    "ode": KernelSpec(ode, clip_range=None, stochastic=False),
}


def find_kernel(name: str) -> KernelSpec:
    """KERNELS[name]; ValueError with the nearest known name otherwise."""
    if name in KERNELS:
        return KERNELS[name]
    raise ValueError(f"unknown kernel {short(name)}; {near(name, KERNELS)}")


# ---- sampling, log-prob, ratio, KL ----------------------------------------------------------------------


def sample(transition: Transition, noise: Tensor, dtype: torch.dtype) -> Tensor:
    """x_next = mean + std noise, rounded to the storage dtype; [B, ...] in the precision of the mean.

    Rounding comes before the log-prob: the latent that is stored is then the one whose log-prob was taken,
    and the first ratio is exactly 1. `noise` is standard normal, shaped like the mean.
    """
    _check_shape("noise", noise, transition.mean)
    x_next = transition.mean + transition.std * noise.to(transition.mean.dtype)
    return x_next.to(dtype).to(transition.mean.dtype)


def log_prob(x_next: Tensor, transition: Transition, reduction: Reduction = "mean", normalised: bool = True) -> Tensor:
    """Log-density of x_next [B, ...] under the transition, reduced over the latent's elements: [B].

    "mean" is the scale of the published clip ranges, the ratio is then the true one to the power 1/D.
    normalised=False: -(x_next - mean)^2 without 1 / (2 std^2) and constants, as Flow-CPS publishes it.
    ValueError where std is 0 (an ODE step, or a last step) unless unnormalised.
    """
    mean, std = transition.mean, transition.std
    _check_shape("x_next", x_next, mean)
    squared = (x_next.to(mean.dtype) - mean) ** 2
    if not normalised:
        return _reduce(-squared, reduction)
    _check_positive("log_prob", std)
    log_density = -squared / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return _reduce(log_density, reduction)


def ratio_norm(
    logp: Tensor, logp_old: Tensor, mean: Tensor, mean_old: Tensor, std: Tensor, dt: Tensor
) -> tuple[Tensor, Tensor]:
    """GRPO-Guard: the log-ratio without its negative bias, on one scale for all steps, and the step's weight.

    log_ratio = (logp - logp_old + mean_d (mean - mean_old)^2 / (2 std^2)) std, weight = 1 / |dt|; both [B].
    logp, logp_old: [B], normalised and reduced by "mean". mean, mean_old: [B, ...]; the bias is averaged
    within each sample, never over the batch. std, dt: [B] or [B, 1, ...]. Differentiable in logp and mean.
    ValueError where std is 0. Source: GRPO-Guard (Wang et al. 2025).
    """
    _check_shape("mean_old", mean_old, mean)
    _check_positive("ratio_norm", std)
    batch = len(mean)
    std, dt = _per_sample("std", std, batch), _per_sample("dt", dt, batch)
    bias = _reduce((mean - mean_old) ** 2, "mean") / (2 * std**2)
    return (logp - logp_old + bias) * std, 1 / dt.abs()


def gaussian_kl(
    mean: Tensor,
    mean_ref: Tensor,
    std: Tensor,
    reduction: Reduction = "mean",
    published_flow_grpo: bool = False,
    dt: Tensor | None = None,
) -> Tensor:
    """KL( N(mean, std^2) || N(mean_ref, std^2) ) per sample, [B]: (mean - mean_ref)^2 / (2 std^2), reduced.

    mean, mean_ref: [B, ...]; std, dt: [B] or [B, 1, ...]. Differentiable in mean.
    published_flow_grpo=True is not the KL: it divides by 2 g^2 = 2 std^2 / |dt|, that is, leaves out |dt|, as
    the released Flow-GRPO code does and as its published coefficients assume; it needs dt.
    ValueError where std is 0.
    """
    _check_shape("mean_ref", mean_ref, mean)
    _check_positive("gaussian_kl", std)
    kl = _reduce((mean - mean_ref) ** 2, reduction) / (2 * _per_sample("std", std, len(mean)) ** 2)
    if not published_flow_grpo:
        return kl
    if dt is None:
        raise ValueError("gaussian_kl: published_flow_grpo=True needs dt, to recover g from std = g sqrt(|dt|)")
    return kl * _per_sample("dt", dt, len(mean)).abs()


# ---- shapes and checks ----------------------------------------------------------------------------------


def _reduce(values: Tensor, reduction: str) -> Tensor:
    # Flattened first: a reduction over an empty tuple of dimensions is one over the batch as well.
    flat = values.reshape(len(values), -1)
    if reduction == "mean":
        return flat.mean(1)
    if reduction == "sum":
        return flat.sum(1)
    raise ValueError(f"unknown reduction {reduction!r}: use 'mean' or 'sum'")


def _same_precision(x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    _check_shape("model output", output, x)
    dtype = torch.float64 if torch.float64 in (x.dtype, output.dtype) else torch.float32
    return x.to(dtype), output.to(dtype)


def _times(x: Tensor, t: float | Tensor, t_next: float | Tensor) -> tuple[Tensor, Tensor]:
    now, later = _column("t", t, x), _column("t_next", t_next, x)
    if not bool(((later >= 0) & (later < now) & (now <= 1 + _ROUNDING)).all()):
        raise ValueError(
            f"a step goes from t to t_next with 0 <= t_next < t <= 1; got t = {t}, t_next = {t_next}. "
            "Times are sigmas, not the model's 0-1000 timesteps"
        )
    return now, later


def _column(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """A float or a [B] tensor as [B, 1, ...] with the dtype, device and number of dimensions of x."""
    numbers = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if numbers.ndim == 0:
        numbers = numbers.expand(len(x))
    if tuple(numbers.shape) != (len(x),):
        raise ValueError(f"{name} has shape {tuple(numbers.shape)}, expected a number or [{len(x)}]")
    return numbers.reshape(-1, *[1] * (x.ndim - 1))


def _per_sample(name: str, value: Tensor, batch: int) -> Tensor:
    """[B] or [B, 1, ...] as [B]."""
    if value.ndim == 0 or len(value) != batch or value.numel() != batch:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected [{batch}] or [{batch}, 1, ...]")
    return value.reshape(batch)


def _check_shape(name: str, value: Tensor, like: Tensor) -> None:
    if value.shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(like.shape)}")


def _check_level(kernel: str, level: float, highest: float = math.inf) -> None:
    if not 0 <= level <= highest:
        raise ValueError(f"{kernel}: noise level {level} is outside [0, {highest}]")


def _check_positive(function: str, std: Tensor) -> None:
    if not bool((std > 0).all()):
        raise ValueError(
            f"{function}: a step with std 0 is deterministic and has no density; train stochastic steps only "
            "(see StepPlan.trained), raise the noise level, or use the unnormalised log-prob"
        )
