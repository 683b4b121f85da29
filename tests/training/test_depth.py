"""Of deep models a plan traces some blocks: what it estimates is what all of them take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mmrl.config import load
from mmrl.training.dry_run import estimates
from mmrl.training.estimate import depth
from mmrl.training.estimate.depth import LEAST, peak_of_deep, stretches
from mmrl.training.estimate.tracing import peak_of

# Family -> options of its builder, by which it has long stretches of equal blocks, of one or of two kinds.
DEEP: dict[str, dict[str, Any]] = {
    "flux": {"layers": 7, "single_layers": 9},
    "sd3": {"layers": 12, "dual_attention": tuple(range(6)), "grid": 32},
    "qwen_image": {"layers": 9},
    "z_image": {"layers": 9},
    "sana": {"layers": 9},
    "wan": {"layers": 9},
}


class Stack(nn.Module):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, width, bias=False) for width in widths)


@pytest.mark.parametrize(
    ("widths", "found"),
    [
        ([8] * LEAST, [LEAST]),
        ([8] * (LEAST - 1), []),
        ([8] * 9 + [4] + [8] * 6, [9, 6]),
        ([8, 4] * 9, []),
    ],
)
def test_stretches_are_neighbours_that_are_equal(widths, found):
    assert [len(blocks) for blocks in stretches(nn.Sequential(Stack(*widths)))] == found


class Chain(nn.Module):
    """Products of [n, 100] by square matrices, each of which counts its calls."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(100, 100, bias=False) for _ in range(blocks))
        self.calls = [0] * blocks
        for number, block in enumerate(self.blocks):
            block.register_parameter("scale", nn.Parameter(torch.ones(())))
            block.forward = self.counted(number, block.forward)

    def counted(self, number: int, forward: Any) -> Any:
        def call(x: torch.Tensor) -> torch.Tensor:
            self.calls[number] += 1
            return forward(x).tanh()

        return call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("graph", [True, False])
def test_three_blocks_compute_and_the_peak_is_that_of_all(graph):
    from torch._subclasses.fake_tensor import FakeTensorMode

    def compute() -> None:
        with torch.set_grad_enabled(graph):
            made = chain(x).sum()
        if graph:
            made.backward()
        for parameter in chain.parameters():
            parameter.grad = None

    with FakeTensorMode(allow_non_fake_inputs=True):
        chain, x = Chain(20), torch.zeros(1000, 100)
    forwards = [block.forward for block in chain.blocks]
    whole, chain.calls = peak_of(compute), [0] * 20
    peak = peak_of_deep([chain], compute)
    assert [number for number, count in enumerate(chain.calls) if count] == [0, 1, 19]
    # Of each block its tanh and, of the last, the product: 400 kB each. Gradients of weights come one by one.
    assert whole == pytest.approx(400_000 * (21 if graph else 3), rel=0.15)
    assert peak == pytest.approx(whole, rel=0.02)
    assert [block.forward for block in chain.blocks] == forwards
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in chain.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", DEEP)
@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_deep_model_takes_what_it_takes_without_the_short_cut(family, checkpointing, train, monkeypatch):
    frames = {"frames": 5} if family == "wan" else {}
    model = {"path": "b", "family": family, "build": {"corpus": ["a dot"], **DEEP[family]}, "dtype": "bfloat16"}
    model |= {"train": train, "gradient_checkpointing": checkpointing}
    values = {
        "modality": "image",
        "device": "cpu",
        "model": {**model, "sampling": {"steps": 3, "size": 256, **frames}},
        "data": {"prompts": [{"prompt": "a dot"}, {"prompt": "a line"}]},
        "rewards": [{"name": "motion.follows" if frames else "jpeg.compressible"}],
        "stages": [{"kind": "grpo", "steps": 1, "groups": 2, "samples": 4, "micro_batch": 4}],
    }
    from mmrl import objects

    config = load(objects.replaced(values))
    ((_, cut),) = estimates(config)
    monkeypatch.setattr(depth, "LEAST", 1000)
    ((_, whole),) = estimates(config)
    assert cut.sizes.update == pytest.approx(whole.sizes.update, rel=0.03)
    assert cut.sizes.sampling == pytest.approx(whole.sizes.sampling, rel=0.03)
