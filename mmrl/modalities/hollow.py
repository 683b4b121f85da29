"""Models without their weights, for `mmrl plan`: every shape, type and name is right, and nothing is read or drawn.

Their tensors are torch's fake ones: operations on them give tensors of the right shape and compute nothing, while
operations on ordinary tensors (ids, positions, sizes of pictures) compute as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_MODE: ContextVar[Any] = ContextVar("mmrl_hollow", default=None)


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, adapters are made without weights; one that does not know of it loads them as for a training."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    token = _MODE.set(FakeTensorMode(allow_non_fake_inputs=True))
    try:
        yield
    finally:
        _MODE.reset(token)


def is_wanted() -> bool:
    """Whether an adapter that is made now is to have no weights."""
    return _MODE.get() is not None


def is_hollow(module: nn.Module) -> bool:
    """Whether a module has been filled with tensors that take no memory."""
    return hasattr(next(module.parameters()), "fake_mode")


def alike(module: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Make a module as hollow as these tensors: fake ones in its place where they are; a no-op elsewhere."""
    mode = next((tensor.fake_mode for tensor in tensors if hasattr(tensor, "fake_mode")), None)
    token = _MODE.set(mode)
    try:
        fill([module])
    finally:
        _MODE.reset(token)


def skeleton() -> AbstractContextManager[Any]:
    """Around the making of a model: its tensors take no memory where weights are not wanted."""
    return torch.device("meta") if is_wanted() else nullcontext()


def fill(modules: Iterable[nn.Module]) -> None:
    """Fake tensors in the place of those that `skeleton` left, of which others are views or ties; a no-op elsewhere."""
    mode = _MODE.get()
    if mode is None:
        return
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with mode:
                empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
            parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if parameter else empty
        return made[id(tensor)]

    for module in {id(m): m for root in modules for m in root.modules()}.values():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in tables:
            held.update({name: fake(tensor) for name, tensor in held.items() if tensor is not None})
        # Tables that a module keeps as they are, so that a change of type does not reach them.
        for name, kept in list(vars(module).items()):
            if isinstance(kept, Tensor) and kept.is_meta:
                vars(module)[name] = fake(kept)
            elif isinstance(kept, list) and kept and all(isinstance(one, Tensor) and one.is_meta for one in kept):
                vars(module)[name] = [fake(one) for one in kept]
