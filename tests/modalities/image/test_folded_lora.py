"""LoRA's matrices folded into the weight: the numbers of peft's own forward, and of the formula."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from small_pipelines import LORA, nudge, roll
from test_every_family import made, prompts
from torch import nn

from mmrl.modalities.image.families import FAMILIES
from mmrl.modalities.image.folded import FoldedLinear


def layer(into: int, out: int, rank: int, alpha: int = 6, bias: bool = True, dropout: float = 0.0) -> nn.Module:
    model = nn.Sequential(nn.Linear(into, out, bias=bias))
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"], lora_dropout=dropout)
    found = peft.inject_adapter_in_model(config, model)[0]
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    found.__class__ = FoldedLinear
    return found


def unfolded(found: nn.Module) -> nn.Module:
    """The same layer as peft makes it."""
    other = copy.deepcopy(found)
    other.__class__ = peft.tuners.lora.Linear
    return other


# A few rows are cheaper by way of the small matrices, many of a small layer by way of the whole weight's gradient.
@pytest.mark.parametrize(("rows", "into", "out", "rank"), [(2, 30, 40, 1), (50, 6, 8, 5), (7, 5, 9, 3), (0, 4, 4, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_formula(rows, into, out, rank, bias):
    torch.manual_seed(rows)
    found = layer(into, out, rank, bias=bias)
    x, dy = torch.randn(rows, 3, into, requires_grad=True), torch.randn(rows, 3, out)
    y = found(x)
    y.backward(dy)
    w, a, b = (p.detach().double() for p in (found.base_layer.weight, *both(found)))
    scale, flat, df = 6 / rank, x.detach().double().view(-1, into), dy.double().view(-1, out)
    expected = flat @ w.T + scale * (flat @ a.T) @ b.T + (found.base_layer.bias.double() if bias else 0)
    close(y.view(-1, out), expected)
    close(x.grad.view(-1, into), df @ w + scale * (df @ b) @ a)
    close(both(found)[0].grad, scale * (df @ b).T @ flat)
    close(both(found)[1].grad, scale * df.T @ (flat @ a.T))
    assert found.base_layer.weight.grad is None


def both(found) -> tuple[nn.Parameter, nn.Parameter]:
    return found.lora_A["default"].weight, found.lora_B["default"].weight


def close(found, expected) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected.double(), atol=2e-6 * scale, rtol=0)


def test_a_frozen_input_and_frozen_matrices_get_no_gradient():
    found = layer(4, 5, 2)
    x = torch.randn(3, 4)
    found(x).sum().backward()
    assert x.grad is None and both(found)[0].grad is not None
    for parameter in both(found):
        parameter.grad = None
        parameter.requires_grad_(False)
    x.requires_grad_(True)
    found(x).sum().backward()
    assert x.grad is not None and both(found)[0].grad is None


def off(found) -> None:
    found.enable_adapters(False)


def dropping(found) -> None:
    found.train()


def second(found) -> None:
    found.update_layer("other", 2, lora_alpha=3, config=peft.LoraConfig(r=2, lora_alpha=3))
    found.set_adapter(["default", "other"])


def in_16_bits(found) -> None:
    found.base_layer.to(torch.bfloat16)


def trained_beneath(found) -> None:
    found.base_layer.requires_grad_(True)


@pytest.mark.parametrize("change", [off, dropping, second, in_16_bits, trained_beneath])
def test_what_is_not_one_float32_product_is_left_to_peft(change):
    found = layer(6, 5, 2, dropout=0.5)
    change(found)
    dtype = found.base_layer.weight.dtype
    x = torch.randn(4, 6, dtype=dtype)
    torch.manual_seed(1)
    mine = found(x)
    torch.manual_seed(1)
    assert torch.equal(mine, unfolded(found)(x))
    assert not found._folds(x)


def test_autocast_keeps_the_small_matrices_apart():
    """An update of less than the weight's last bit in 16 bits must not be lost."""
    found, x = layer(6, 5, 2), torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(found(x), unfolded(found)(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_replays_as_with_the_matrices_apart(family):
    policy = made(family, **LORA)
    nudge(policy)
    samples = roll(policy, n=1, prompts=prompts(family)[:2])
    layers = [m for d in policy.family.denoisers.values() for m in d.modules() if isinstance(m, FoldedLinear)]
    assert len(layers) * 2 == len(policy.trainable_parameters())
    columns = torch.arange(len(samples[0].trajectory.logp))

    def replayed() -> tuple[torch.Tensor, list[torch.Tensor]]:
        logp = policy.logprobs(samples, columns).logp
        names = list(policy.trainable_parameters().values())
        found = torch.autograd.grad((logp * torch.tensor([[1.0], [-2.0]])).sum(), names, allow_unused=True)
        return logp.detach(), [g for g in found if g is not None]

    logp, gradients = replayed()
    for one in layers:
        one.__class__ = peft.tuners.lora.Linear
    plain, expected = replayed()
    torch.testing.assert_close(logp, plain, atol=1e-5, rtol=0)
    assert len(gradients) == len(expected) > 0
    scale = max(float(g.abs().max()) for g in expected)
    assert max(float((g - e).abs().max()) for g, e in zip(gradients, expected)) < 1e-4 * scale
