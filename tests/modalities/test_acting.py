"""Other weights in a model's parameters: what acts, whose gradient it is, and what raises before anything is mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmrl.modalities.acting import copies
from mmrl.modalities.adapter import Adapter


class Line(Adapter):
    """y = w2 tanh(w1 x) + b: weights that a backward reads, and one that it does not."""

    def __init__(self, recomputed=False):
        super().__init__(None)
        generator = torch.Generator().manual_seed(0)
        self.w = nn.ParameterList(torch.randn(2, 2, generator=generator) for _ in range(2))
        self.b, self.recomputed = nn.Parameter(torch.zeros(2)), recomputed

    def trainable_parameters(self):
        return {"w1": self.w[0], "w2": self.w[1], "b": self.b}

    def forward(self, x):
        return torch.tanh(x @ self.w[0]) @ self.w[1] + self.b

    def loss(self, x=None):
        x = torch.ones(1, 2) if x is None else x
        return (checkpoint(self.forward, x, use_reentrant=False) if self.recomputed else self.forward(x)).square().sum()

    def save(self, folder: Path):
        raise NotImplementedError


@pytest.fixture(params=[False, True], ids=["kept", "recomputed"])
def line(request):
    return Line(request.param)


@pytest.fixture
def other(line):
    """Other weights for it, and what a model that has only those computes: (weights, its loss, its gradient)."""
    twin = Line()
    with torch.no_grad():
        for number, p in enumerate(twin.trainable_parameters().values()):
            p.add_(0.3 * (1 + number))
    weights = copies(twin.trainable_parameters(), trained=True)
    loss = twin.loss()
    loss.backward()
    return weights, loss.detach(), {name: p.grad for name, p in twin.trainable_parameters().items()}


def own_gradient():
    twin = Line()
    twin.loss().backward()
    return {name: p.grad for name, p in twin.trainable_parameters().items()}


def same(gradients, wanted):
    assert gradients.keys() == wanted.keys()
    assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)


def of(parameters):
    return {name: p.grad for name, p in parameters.items()}


def test_weights_act_and_gradients_are_their_own(line, other):
    """The policy's graph is built before, gone back through behind it; the other's in between."""
    weights, expected, gradient = other
    objects = line.trainable_parameters()
    loss = line.loss()
    with line.acting(weights, gradient=True):
        inside = line.loss()
        assert torch.equal(inside.detach(), expected)
        inside.backward()
        assert not line.policy_acts
    assert line.policy_acts
    same(of(weights), gradient)
    assert all(p is objects[name] and p.grad is None for name, p in line.trainable_parameters().items())
    loss.backward()
    same(of(line.trainable_parameters()), own_gradient())
    same(of(weights), gradient)


def test_without_gradient_nothing_has_a_graph_and_the_policys_stays_right(line, other):
    weights, expected, _ = other
    loss = line.loss()
    with line.acting(weights):
        assert torch.equal(line.loss(), expected) and not line.loss().requires_grad
        with line.acting(None):
            assert torch.equal(line.loss(), loss.detach())
        with line.acting(weights):  # again
            assert torch.equal(line.loss(), expected)
    loss.backward()
    same(of(line.trainable_parameters()), own_gradient())


def test_a_reference_inside_of_other_weights_is_the_reference(line, other):
    weights, expected, gradient = other
    line.prepare_reference()
    start = line.loss().detach()
    with torch.no_grad():
        for p in line.trainable_parameters().values():
            p.add_(1.0)
    with line.acting(weights, gradient=True):
        loss = line.loss()
        with line.reference():
            assert torch.equal(line.loss(), start)
        assert torch.equal(line.loss().detach(), expected)
        loss.backward()
    same(of(weights), gradient)
    with line.reference(), line.acting(weights):
        assert torch.equal(line.loss(), expected)
    assert line.policy_acts and not torch.equal(line.loss().detach(), start)


@pytest.mark.parametrize("only_bias", [False, True])
def test_no_graph_goes_back_through_weights_that_do_not_act(line, other, only_bias):
    """Not the policy's inside of a block, nor that of a block behind it, nor one that joins both; in any order."""
    weights, _, gradient = other

    def loss(x=None):  # of which a backward reads no weight at all
        return line.b.sum() if only_bias else line.loss(x)

    mine = loss()
    with line.acting(weights), pytest.raises(RuntimeError, match="weights that do not act now"):
        mine.backward(retain_graph=True)
    with line.acting(weights, gradient=True):
        theirs = loss()
        with pytest.raises(RuntimeError, match="weights that do not act now"):
            mine.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="weights that do not act now"):
        theirs.backward()
    if not only_bias:
        drawn = line.forward(torch.ones(1, 2))
        with line.acting(weights, gradient=True), pytest.raises(RuntimeError, match="detach what comes from outside"):
            loss(drawn).backward()
    for p in (*line.trainable_parameters().values(), *weights.values()):
        p.grad = None
    with line.acting(weights, gradient=True):
        line.loss().backward()
    line.loss().backward()
    same(of(weights), gradient)
    same(of(line.trainable_parameters()), own_gradient())


def test_an_error_inside_of_a_block_puts_the_policy_back(line, other):
    before = line.loss().detach()
    with pytest.raises(KeyError, match="gone"), line.acting({**other[0], "gone": torch.zeros(2)}):
        pass
    with pytest.raises(ValueError, match="mine"), line.acting(other[0], gradient=True):
        raise ValueError("mine")
    assert line.policy_acts and torch.equal(line.loss().detach(), before)
