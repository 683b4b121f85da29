"""SPAM is AdamW but for spikes and resets, which are worked out by hand here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mmrl.config import ConfigError, OptimConfig, validate
from mmrl.training.learner import Learner
from mmrl.training.optim import build
from mmrl.training.processes import Processes
from mmrl.training.spam import Spam, clip_spikes, warmup_scale

OPTIONS = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def run(make, gradients: list[torch.Tensor]) -> nn.Parameter:
    parameter = nn.Parameter(torch.linspace(-1, 1, gradients[0].numel()))
    step(make([parameter]), parameter, gradients)
    return parameter.detach()


def step(optimizer, parameter: nn.Parameter, gradients: list[torch.Tensor]) -> None:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()


def noise(steps: int, seed: int = 0) -> list[torch.Tensor]:
    return list(torch.randn(steps, 5, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("reset_every", [0, 30])
def test_without_clipping_and_reset_it_is_adamw_bit_for_bit(reset_every):
    gradients = noise(30)
    gradients[10] *= 1000
    spam = run(lambda p: Spam(p, **OPTIONS, threshold=math.inf, reset_every=reset_every, warmup=5), gradients)
    adamw = run(lambda p: torch.optim.AdamW(p, **OPTIONS), gradients)
    assert torch.equal(spam, adamw)


def test_after_a_reset_it_is_a_new_adamw_with_a_warm_up():
    """Steps 4 and 5 are the first two of a fresh AdamW whose rate is scaled by half a cosine over 3 steps."""
    gradients = noise(5)
    spam = run(lambda p: Spam(p, **OPTIONS, threshold=math.inf, reset_every=3, warmup=3), gradients)
    fresh = nn.Parameter(run(lambda p: torch.optim.AdamW(p, **OPTIONS), gradients[:3]))
    optimizer = torch.optim.AdamW([fresh], **{**OPTIONS, "weight_decay": 0.0})
    for number, gradient in enumerate(gradients[3:], 1):
        with torch.no_grad():
            fresh.mul_(1 - 0.01 * 0.1)  # weight decay is not part of the warm-up
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 - math.cos(math.pi * number / 3))
        step(optimizer, fresh, [gradient])
    torch.testing.assert_close(spam, fresh.detach(), rtol=1e-6, atol=1e-7)


def test_the_warm_up_rises_to_one():
    assert [warmup_scale(n, 4) for n in (1, 2, 3, 4, 9)] == pytest.approx(
        [0.5 - 0.5 * math.sqrt(0.5), 0.5, 0.5 + 0.5 * math.sqrt(0.5), 1, 1]
    )
    assert warmup_scale(1, 0) == 1


def test_a_spike_is_brought_down_to_its_limit_and_keeps_its_sign():
    square = torch.tensor([4.0, 4.0, 4.0, 0.0])
    # threshold 9: the limit is sqrt(36) = 6; no limit without history.
    clipped = clip_spikes(torch.tensor([-100.0, 5.0, 7.0, 50.0]), square, 9.0)
    assert clipped.tolist() == [-6.0, 5.0, 6.0, 50.0]


def test_what_reaches_the_moments_is_the_clipped_gradient():
    """betas 0.5: v = 0.5 * 4 = 2 after g = 2; threshold 8 clips 100 to sqrt(16) = 4; m = 0.5 * (0.5 * 2) + 0.5 * 4."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = Spam([parameter], lr=0.1, betas=(0.5, 0.5), threshold=8.0, reset_every=0, clip_after=1)
    step(optimizer, parameter, [torch.tensor([2.0]), torch.tensor([100.0])])
    state = optimizer.state[parameter]
    assert state["exp_avg"].item() == pytest.approx(2.5)
    assert state["exp_avg_sq"].item() == pytest.approx(0.5 * 2 + 0.5 * 16)
    assert parameter.grad.item() == 100.0


def test_nothing_is_clipped_in_the_first_steps_after_start_and_reset():
    gradients = [torch.ones(1), torch.full((1,), 100.0), torch.ones(1), torch.ones(1), torch.full((1,), 100.0)]
    wild = run(lambda p: Spam(p, threshold=2.0, reset_every=3, warmup=0, clip_after=2), gradients)
    free = run(lambda p: Spam(p, threshold=math.inf, reset_every=3, warmup=0), gradients)
    # Steps 1, 2 and (after the reset) 4, 5 are free. Step 3 has g = 1, far below the limit.
    assert torch.equal(wild, free)
    clipped = run(lambda p: Spam(p, threshold=2.0, reset_every=3, warmup=0, clip_after=1), gradients)
    assert not torch.equal(clipped, free)


def test_a_coordinate_that_starts_to_move_late_is_not_frozen():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = Spam([parameter], lr=0.1, threshold=5000.0, clip_after=1, weight_decay=0.0)
    step(optimizer, parameter, [torch.tensor([1.0, 0.0])] * 30 + [torch.tensor([1.0, 1.0])])
    assert optimizer.state[parameter]["exp_avg"][1].item() == pytest.approx(0.1)


def test_a_spike_moves_the_weights_less_than_with_adamw():
    gradients = noise(40)
    spiked = [g.clone() for g in gradients]
    spiked[30] += 1e4
    drift = {}
    for name, make in {
        "spam": lambda p: Spam(p, **OPTIONS, threshold=50.0, reset_every=0),
        "adamw": lambda p: torch.optim.AdamW(p, **OPTIONS),
    }.items():
        drift[name] = float((run(make, spiked) - run(make, gradients)).abs().max())
    assert drift["spam"] < drift["adamw"] / 2


def test_state_goes_through_a_checkpoint_bit_for_bit():
    """9 steps straight, over a reset; and 5 steps, saved, restored into a new optimizer, 4 more."""
    config = OptimConfig(name="spam", lr=0.01, spam_threshold=2.0, spam_reset_every=4, spam_warmup=2, spam_clip_after=1)
    gradients = noise(9)
    straight = run(lambda p: build(config, {"w": p[0]}), gradients)
    parameter = nn.Parameter(torch.linspace(-1, 1, 5))
    first = build(config, {"w": parameter})
    step(first, parameter, gradients[:5])
    learner = Learner("policy", {"w": parameter}, config, 9, Processes("cpu"))
    learner.optimizer = first
    state, saved = learner.state(), {name: value.clone() for name, value in learner.tensors().items()}
    assert set(saved) == {"param/w", "grad/w", "optim/w/step", "optim/w/exp_avg", "optim/w/exp_avg_sq"}
    other = nn.Parameter(torch.zeros(5))
    second = Learner("policy", {"w": other}, config, 9, Processes("cpu"))
    second.load(state, saved)
    step(second.optimizer, other, gradients[5:])
    assert torch.equal(other, straight)


def test_the_config_chooses_the_optimizer():
    parameters = {"w": nn.Parameter(torch.zeros(2))}
    assert type(build(OptimConfig(), parameters)) is torch.optim.AdamW
    spam = build(OptimConfig(name="spam", lr=0.5, spam_threshold=7.0, spam_reset_every=9, spam_warmup=3), parameters)
    assert isinstance(spam, Spam)
    group = spam.param_groups[0]
    assert (group["lr"], group["threshold"], group["reset_every"], group["warmup"]) == (0.5, 7.0, 9, 3)


def test_values_that_cannot_be():
    parameters = [nn.Parameter(torch.zeros(1))]
    with pytest.raises(ValueError, match="threshold=0 must be above 0"):
        Spam(parameters, threshold=0)
    with pytest.raises(ValueError, match="0 or more"):
        Spam(parameters, clip_after=-1)
    with pytest.raises(ValueError, match="take warmup=10 or less"):
        Spam(parameters, reset_every=10, warmup=11)
    with pytest.raises(ConfigError, match="take spam_warmup=10 or less"):
        validate(OptimConfig, {"name": "spam", "spam_reset_every": 10, "spam_warmup": 11})
