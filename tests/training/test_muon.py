"""Muon moves the matrices of blocks by an orthogonal step, AdamW everything else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmrl.config import ConfigError, OptimConfig
from mmrl.training.learner import Learner
from mmrl.training.muon import is_hidden_matrix
from mmrl.training.processes import Processes

SHAPES = {"blocks.0.wide": (4, 16), "blocks.1.square": (6, 6), "blocks.0.bias": (5,), "embedding": (7, 3)}
MATRICES = ("blocks.0.wide", "blocks.1.square")


def learner(seed: int = 0, shapes: dict[str, tuple[int, ...]] = SHAPES, **options) -> Learner:
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    chosen = {"name": "muon", "lr": 0.01, "weight_decay": 0.0, "max_grad_norm": 1e9} | options
    return Learner("policy", parameters, OptimConfig(**chosen), 10, Processes())


def step(one: Learner, seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """How each parameter moves in a step with gradients of the seed."""
    generator = torch.Generator().manual_seed(seed)
    before = {name: p.detach().clone() for name, p in one.parameters.items()}
    for parameter in one.parameters.values():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    one.step()
    return {name: p.detach() - before[name] for name, p in one.parameters.items()}


@pytest.mark.parametrize("ratio", [1.0, 10.0])
def test_a_matrix_moves_by_an_orthogonal_one_of_adamws_size(ratio):
    """All singular values of the step are about 0.2 sqrt(longer side) times the rate: Muon's polynomial brings them to
    between 0.7 and 1.2, whatever the gradient's are."""
    moved = step(learner(muon_ratio=ratio), seed=1)
    for name in MATRICES:
        size = 0.01 * ratio * 0.2 * max(SHAPES[name]) ** 0.5
        values = torch.linalg.svdvals(moved[name]) / size
        assert values.min() > 0.6 and values.max() < 1.3, values


def test_a_matrix_moves_against_its_gradient_whatever_the_gradients_size():
    small, large = (step(learner(), seed=1, scale=scale) for scale in (1e-3, 1e3))
    gradients = torch.Generator().manual_seed(1)
    gradient = torch.randn(SHAPES[MATRICES[0]], generator=gradients)
    for name in MATRICES:
        torch.testing.assert_close(small[name], large[name], rtol=0.03, atol=3e-4)
    assert float((small[MATRICES[0]] * gradient).sum()) < 0


def test_everything_else_is_adamws_bit_for_bit():
    one, other = learner(), learner(name="adamw")
    for seed in range(3):
        step(one, seed), step(other, seed)
    for name in SHAPES:
        assert torch.equal(one.parameters[name], other.parameters[name]) == (name not in MATRICES), name


def test_what_it_remembers_is_saved():
    whole, first, second = learner(), learner(), learner(seed=9)
    step(whole, 1), step(first, 1)
    second.load(first.state(), {name: tensor.clone() for name, tensor in first.tensors().items()})
    step(whole, 2), step(second, 2)
    for name in SHAPES:
        assert torch.equal(whole.parameters[name], second.parameters[name]), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_so_it_is_of_weights_in_another_order_in_memory(name):
    """What a checkpoint gives back lies in rows, whatever the weights do: the same numbers, wherever they lie."""
    shapes = {"blocks.0.wide": (4, 16), "picture": (8, 4, 3, 3), "turned": (5, 7)}

    def made(other_order: bool) -> Learner:
        one = learner(shapes=shapes, name=name)
        if other_order:
            one.parameters["picture"].data = one.parameters["picture"].data.to(memory_format=torch.channels_last)
            one.parameters["turned"].data = one.parameters["turned"].data.t().contiguous().t()
        return Learner("policy", one.parameters, one.options, 10, Processes())

    rows, first, second = made(False), made(True), made(True)
    step(rows, 1), step(first, 1)
    second.load(
        first.state(),
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in first.tensors().items()},
    )
    step(rows, 2), step(first, 2), step(second, 2)
    for key in shapes:
        torch.testing.assert_close(first.parameters[key].detach(), rows.parameters[key].detach(), rtol=1e-6, atol=1e-7)
        assert torch.equal(first.parameters[key], second.parameters[key]), key


def test_momentum_is_used():
    assert not torch.equal(*(_second(muon_momentum=momentum) for momentum in (0.0, 0.95)))


def _second(**options) -> torch.Tensor:
    one = learner(**options)
    step(one, 1)
    return step(one, 2)[MATRICES[0]]


@pytest.mark.parametrize(
    ("name", "shape", "hidden"),
    [
        ("denoiser.transformer_blocks.3.attn.to_q.weight", (4, 4), True),
        ("model.layers.0.mlp.up_proj.weight", (8, 4), True),
        ("model.layers.0.mlp.up_proj.lora_A.default.weight", (8, 4), True),
        ("model.embed_tokens.weight", (8, 4), False),
        ("lm_head.weight", (8, 4), False),
        ("denoiser.proj_out.weight", (8, 4), False),
        ("model.layers.0.norm.weight", (4,), False),
        ("vae.decoder.up_blocks.0.conv.weight", (4, 4, 3, 3), False),
    ],
)
def test_which_parameters_are_hidden_matrices(name, shape, hidden):
    assert is_hidden_matrix(name, torch.zeros(shape)) is hidden


def test_without_such_a_matrix_it_says_so():
    with pytest.raises(ConfigError, match="matrices of repeated blocks, and none is trained"):
        learner(shapes={"embedding": (7, 3)})
