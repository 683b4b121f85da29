"""LoRA's matrices folded into the weight that they change, where that loses nothing: one matrix product for three."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F

from mmrl.modalities.image.families.base import Family


class FoldedLinear(Linear):
    """peft's layer, whose float32 forward is x (W + scale B A)^T: the same up to rounding, in sampling and in replay.

    peft's own forward is left where it is something else: adapters that are off, several at once, dropout, variants,
    and 16-bit numbers, to which the sum would be rounded: an update smaller than the weight's last bit would be lost.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self._folds(x):
            return super().forward(x, *args, **kwargs)
        [name] = self.active_adapters
        base = self.base_layer
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return _Folded.apply(x, base.weight, base.bias, a, b, float(self.scaling[name]))

    def _folds(self, x: Tensor) -> bool:
        names = self.active_adapters
        if self.disable_adapters or self.merged or len(names) != 1 or names[0] not in self.lora_A:
            return False
        name = names[0]
        a, b, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        return (
            type(self.base_layer) is nn.Linear
            and not any(p.requires_grad for p in self.base_layer.parameters())
            and name not in self.lora_variant
            and a.bias is None
            and b.bias is None
            and (isinstance(dropout, nn.Identity) or not dropout.training)
            and all(t.dtype == torch.float32 for t in (x, self.base_layer.weight, a.weight, b.weight))
            and not torch.is_autocast_enabled(x.device.type)
            and _exact_products()
        )


@torch.compiler.assume_constant_result  # the question itself would end a compiled graph at each layer
def _exact_products() -> bool:
    """TF32 would round the fold, not the adapter."""
    return torch.get_float32_matmul_precision() == "highest"


class _Folded(torch.autograd.Function):
    """x [..., i] -> x (W + s B A)^T + bias, W [o, i], A [r, i], B [o, r]. W and the bias get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return F.linear(x, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        [dy] = gradients
        x, weight, a, b = ctx.saved_tensors
        # The sum is made again: kept, it would take the memory of all weights that have matrices.
        dx = dy @ torch.addmm(weight, b, a, alpha=ctx.scale) if ctx.needs_input_grad[0] else None
        if not (ctx.needs_input_grad[3] or ctx.needs_input_grad[4]):
            return dx, None, None, None, None, None
        x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        rows, (out, into), rank = len(x), weight.shape, len(a)
        if rows * out * into + 2 * rank * out * into < 2 * rows * rank * (out + into):
            whole = dy.T @ x
            da, db = b.T @ whole, whole @ a.T
        else:
            da, db = (dy @ b).T @ x, dy.T @ (x @ a.T)
        return dx, None, None, ctx.scale * da, ctx.scale * db, None


def fold(family: Family) -> None:
    """Let all linear layers with matrices on the denoiser fold them, those that peft made alone."""
    for module in family.denoisers.values():
        for layer in module.modules():
            if type(layer) is Linear:
                layer.__class__ = FoldedLinear
