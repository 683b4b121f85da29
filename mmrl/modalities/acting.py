"""Other weights in a model's parameters for a while: the reference, and the roles of a stage.

The parameters stay the same objects, which modules, optimizers and engines hold: their data and gradients change places
with those of the other weights, and nothing is copied. So a set of weights takes the memory of the trained parameters
alone, which for LoRA is that of the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

MIXED = (
    "a backward goes through weights that do not act now: differentiate a loss inside of the `acting` block in which "
    "it was made, and detach what comes from outside of it"
)


@dataclass(frozen=True)
class Rows:
    """That a parameter is some rows of a weight, which is divided over processes (mmrl.modalities.shards). of: how many
    rows there are in all."""

    of: int


def part_of(parameter: nn.Parameter, rows: Rows) -> nn.Parameter:
    """The parameter, marked as rows of a weight, whose memory it shares."""
    parameter.rows = rows  # type: ignore[attr-defined]
    return parameter


def rows_of(parameter: nn.Parameter) -> int:
    """How many rows the weight has of which the parameter is some; all of a weight that is not divided."""
    rows = getattr(parameter, "rows", None)
    return rows.of if isinstance(rows, Rows) else len(parameter)


def copies(parameters: Mapping[str, Tensor], trained: bool = False) -> dict[str, nn.Parameter]:
    """Weights of their own that begin as the parameters are now, marked as rows where those are; trained: an optimizer
    will move them."""
    found = {}
    for name, p in parameters.items():
        made = nn.Parameter(p.detach().clone(), requires_grad=trained)
        rows = getattr(p, "rows", None)
        found[name] = made if rows is None else part_of(made, rows)
    return found


def misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Where weights of one policy cannot act in another's place, in words; None where they can."""
    for name in (*wanted, *found):
        if name not in wanted or name not in found:
            return f"{name} is in one of them only"
        if wanted[name].shape != found[name].shape:
            return f"{name} is {list(found[name].shape)}, not {list(wanted[name].shape)}"
    return None


def exchange(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor], apart: bool = False) -> None:
    """The data and the gradients of the parameters of these names and of the weights change places.

    A graph that was built before goes back through what the parameters held then, once a second exchange has put it
    back. apart: graphs that are built from now on share nothing with those of before, so that `guard` tells them apart.
    Raises KeyError, before any is exchanged, for a name without a parameter.
    """
    pairs = [(parameters[name], tensor) for name, tensor in weights.items()]
    for parameter, tensor in pairs:
        data, gradient = parameter.data, parameter.grad
        parameter.grad = None
        if hasattr(parameter, "rows"):  # the model gathers from this very memory
            held = data.clone()
            data.copy_(tensor.data)
            tensor.data.copy_(held)
            parameter.grad, tensor.grad = tensor.grad, gradient
            continue
        if apart:  # a parameter whose type changes gets another node that gradients arrive at
            parameter.data = data.new_empty(0, dtype=torch.float64 if data.dtype != torch.float64 else torch.float32)
        parameter.data, parameter.grad = tensor.data, tensor.grad
        tensor.grad = None
        tensor.data, tensor.grad = data, gradient
    # An autocast around both keeps 16-bit copies by parameter, which are of what the parameter held before.
    torch.clear_autocast_cache()


def guard(parameters: Iterable[Tensor], allowed: Callable[[], bool]) -> None:
    """Graphs of these parameters up to now: a backward through them raises RuntimeError unless `allowed()` then."""

    def refuse(gradients: Any) -> None:
        if not allowed():
            raise RuntimeError(MIXED)

    for parameter in parameters:
        if parameter.requires_grad:
            get_gradient_edge(parameter).node.register_prehook(refuse)


@contextmanager
def no_backward(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Inside, a backward through any graph of these parameters raises RuntimeError."""

    def refuse(gradient: Tensor) -> Tensor:
        raise RuntimeError(MIXED)

    handles = [parameter.register_hook(refuse) for parameter in parameters if parameter.requires_grad]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
