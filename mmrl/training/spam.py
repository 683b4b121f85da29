"""SPAM: AdamW that clips spikes of single coordinates and forgets its momentum from time to time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Spam(torch.optim.Optimizer):
    """Spike-aware Adam with momentum reset (arXiv 2501.06842), with AdamW's decoupled weight decay.

    threshold: a coordinate with g^2 > threshold * v becomes sign(g) * sqrt(threshold * v), v being its second moment
        before this step; infinity clips nothing. A coordinate without history (v = 0) is never clipped.
    reset_every: before every step that follows so many, both moments become 0; 0 never resets.
    warmup: steps of a half-cosine rise of the update after each reset, none at the start of training.
    clip_after: steps after the start and after each reset in which nothing is clipped, as v is not yet a mean.

    The values of reset_every, warmup and clip_after are recalled, not read. The published optional random sparse
    momentum is not here. Bias correction starts anew with each reset, so that the moments stay means; released code
    lets it run on, which scales the first updates after a reset up. State of a parameter, as AdamW's: `step` (all
    steps), `exp_avg`, `exp_avg_sq`; with threshold infinity and no reset the weights are AdamW's bit for bit.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        threshold: float = 5000.0,
        reset_every: int = 500,
        warmup: int = 150,
        clip_after: int = 20,
    ) -> None:
        if threshold <= 0:
            raise ValueError(f"Spam: threshold={threshold} must be above 0 (infinity clips nothing)")
        if min(reset_every, warmup, clip_after) < 0:
            raise ValueError(
                f"Spam: reset_every={reset_every}, warmup={warmup} and clip_after={clip_after} must be 0 or more"
            )
        if reset_every and warmup > reset_every:
            raise ValueError(
                f"Spam: warmup={warmup} is longer than reset_every={reset_every}: updates would never be whole; "
                f"take warmup={reset_every} or less"
            )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "threshold": threshold,
            "reset_every": reset_every,
            "warmup": warmup,
            "clip_after": clip_after,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; gradients are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        since, was_reset = _since_reset(int(state["step"]), group["reset_every"])
        if was_reset and since == 1:
            mean.zero_()
            square.zero_()
        if since > group["clip_after"] and math.isfinite(group["threshold"]):
            gradient = clip_spikes(gradient, square, group["threshold"])
        beta1, beta2 = group["betas"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rate = group["lr"] / (1 - beta1**since)
        if was_reset:
            rate *= warmup_scale(since, group["warmup"])
        spread = (square.sqrt() / (1 - beta2**since) ** 0.5).add_(group["eps"])
        parameter.addcdiv_(mean, spread, value=-rate)


def clip_spikes(gradient: Tensor, square: Tensor, threshold: float) -> Tensor:
    """Coordinates above sqrt(threshold * square) brought down to it; where square is 0, as they are."""
    limit = (threshold * square).sqrt()
    clipped = torch.minimum(gradient.abs(), limit).copysign(gradient)
    return torch.where(square > 0, clipped, gradient)


def warmup_scale(since: int, warmup: int) -> float:
    """Half a cosine from 0 to 1: what share of the update the `since`-th step after a reset (from 1) makes."""
    return 0.5 * (1 - math.cos(math.pi * since / warmup)) if since < warmup else 1.0


def _since_reset(step: int, reset_every: int) -> tuple[int, bool]:
    """(steps since the start or the last reset, from 1; whether there was a reset) at the step-th step, from 1."""
    if not reset_every:
        return step, False
    return (step - 1) % reset_every + 1, step > reset_every
