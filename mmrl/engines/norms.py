"""The usual norm by the root mean square, in as few passes over the numbers as its formula needs.

y = w x r with r = (mean(x^2) + eps)^(-1/2). With g = w dy the gradients are
    dx = r g - x r^3 mean(g x)        dw = sum of dy x r over all but the last axis.
The library's own forward is five operations, and what autograd makes of them fourteen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class RootMeanSquare(torch.autograd.Function):
    """x [..., d], weight [d], both of one type -> [..., d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        [dy] = gradients
        x, weight, r = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[1]:
            dw = (x * r).mul_(dy).reshape(-1, len(weight)).sum(0)
        if ctx.needs_input_grad[0]:
            g = dy * weight
            share = (g * x).sum(-1, keepdim=True).mul_(r.pow(3)).div_(-x.shape[-1])
            dx = torch.addcmul(g.mul_(r), x, share)
        return dx, dw, None


# Where the usual norms are defined, whose names end so.
_HOMES, _NAME = ("transformers.models.", "diffusers.models.normalization"), "RMSNorm"


class _Quick:
    """In front of the class of a norm, whose own forward is left where numbers are not float32."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if x.dtype != torch.float32 or weight.dtype != torch.float32:
            return super().forward(x)  # type: ignore[misc]
        made: Tensor = RootMeanSquare.apply(x, weight, _eps(self))
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What is pickled is the library's own: its class is found by its name, and others need no mmrl to read it."""
        made: Any = super().__reduce_ex__(1)  # later ones insist on the class that the object has
        how, (kind, *more), *state = made
        return how, (kind.__mro__[2], *more), *state

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def quicken(modules: Iterable[Any]) -> None:
    """Let each of these norms that is of transformers or diffusers, and by the formula above, compute it so."""
    for module in modules:
        kind = type(module)
        home = kind.__module__.startswith(_HOMES) and kind.__name__.endswith(_NAME)
        if not home or not _has_one_weight(module) or "forward" in vars(module) or isinstance(module, _Quick):
            continue
        if kind not in _USUAL:
            _USUAL[kind] = _is_usual(module)
        if _USUAL[kind]:
            if kind not in _QUICK:
                _QUICK[kind] = type(kind.__name__, (_Quick, kind), {"__module__": kind.__module__})
            module.__class__ = _QUICK[kind]


_USUAL: dict[type, bool] = {}
_QUICK: dict[type, type] = {}


def _eps(module: Any) -> Any:
    return getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)


def _has_one_weight(module: Any) -> bool:
    kept = dict(module.named_parameters()) | dict(module.named_buffers())
    return list(kept) == ["weight"] and kept["weight"].ndim == 1 and isinstance(_eps(module), float)


@torch.no_grad()
def _is_usual(module: Any) -> bool:
    """Whether the module's class computes the formula; others weigh by 1 + w, or take the mean off."""
    draw = torch.Generator().manual_seed(0)
    size = module.weight.shape[0]
    kind: Any = type(module)
    weight = torch.randn(size, generator=draw)  # a hollow one has no numbers
    tried = kind.__new__(kind)
    tried.__dict__.update(vars(module), _parameters={"weight": nn.Parameter(weight)})
    x = torch.randn(2, 3, size, generator=draw) + 1
    found = kind.forward(tried, x)  # hooks hear nothing of it
    return bool(torch.allclose(found, RootMeanSquare.apply(x, weight, _eps(module)), rtol=1e-5, atol=1e-6))
