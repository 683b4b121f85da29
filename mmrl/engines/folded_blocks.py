"""Weights of decoder layers as the products of a few rows want them: joined, turned, with the norms' weights inside.

A token of some dozen rows reads every weight once and computes little with it. On a CPU the product is a quarter to a
third cheaper where a weight lies the other way round, queries, keys and values are one product, and gates and values of
the MLP another one. The copies are as large as the layers, so there are some up to a size only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Tokens of a row from which copies pay, and numbers that they may have (256 MB).
WORTH, MOST = 32, 2**26


@dataclass(frozen=True)
class Folded:
    """One layer. A matrix [in, out] has the weight of the norm before it inside; biases are None where there are none.

    inward: of queries, keys and values; outward: of what attention found. gates: of gates and values of the MLP; down:
    back. norms: [heads, d], of each head of queries and keys, or None. heads: of queries, of keys.
    """

    inward: Tensor
    inward_bias: Tensor | None
    outward: Tensor
    outward_bias: Tensor | None
    gates: Tensor
    gates_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    act: Any
    norms: Tensor | None
    heads: tuple[int, int]
    size: int
    scaling: float
    eps: tuple[Tensor, Tensor, Tensor]  # [1, 1]: of the norms before attention and MLP, and of queries and keys

    @classmethod
    def of(cls, layer: Any) -> Folded:
        part, mlp = layer.self_attn, layer.mlp
        inner, behind = layer.input_layernorm, layer.post_attention_layernorm
        inward = [part.q_proj, part.k_proj, part.v_proj]
        heads = part.q_proj.out_features // part.head_dim, part.k_proj.out_features // part.head_dim
        norms, own = None, inner.variance_epsilon
        if hasattr(part, "q_norm"):
            own = part.q_norm.variance_epsilon
            weights = [n.weight.detach().expand(h, -1) for n, h in zip((part.q_norm, part.k_norm), heads)]
            norms = torch.cat(weights)
        return cls(
            *_joined(inward, inner.weight),
            *_joined([part.o_proj]),
            *_joined([mlp.gate_proj, mlp.up_proj], behind.weight),
            *_joined([mlp.down_proj]),
            mlp.act_fn,
            norms,
            heads,
            part.head_dim,
            part.scaling,
            tuple(inner.weight.new_full((1, 1), eps) for eps in (inner.variance_epsilon, behind.variance_epsilon, own)),
        )

    def __call__(self, x: Tensor, cos: Tensor, turn: Tensor, kept: Any, mask: Tensor | None) -> Tensor:
        """[b, D] -> [b, D]. cos, turn: [b, 1, d]. kept: the layer's cache. mask: as for Blocks.step."""
        b, d = len(x), self.size
        heads, groups = self.heads
        both, values = (
            _times(_normed(x, self.eps[0]), self.inward, self.inward_bias)
            .view(b, -1, d)
            .tensor_split((heads + groups,), 1)
        )
        if self.norms is not None:
            both = _normed(both, self.eps[2]).mul_(self.norms)
        both = torch.addcmul(both * cos, both.roll(d // 2, -1), turn)
        keys, values = kept.update(both[:, heads:, None], values[:, :, None])
        # The heads of a group stand where queries of several tokens would, so that its keys are not repeated for them.
        queries = both[:, :heads].unflatten(1, (groups, heads // groups))
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=self.scaling)
        x = _plus(x, found.reshape(b, heads * d), self.outward, self.outward_bias)
        gate, value = _times(_normed(x, self.eps[1]), self.gates, self.gates_bias).chunk(2, 1)
        return _plus(x, self.act(gate).mul_(value), self.down, self.down_bias)


def folded(layers: Sequence[Any]) -> list[Folded] | None:
    """Copies of the layers' weights as they are now, or None where they would be of no use, too large, or another
    module's work. The layers are those of blocks.KNOWN."""
    if not all(_plain_mlp(layer.mlp) and all(map(_plain, _linears(layer))) for layer in layers):
        return None
    if sum(linear.weight.numel() for layer in layers for linear in _linears(layer)) > MOST:
        return None
    return [Folded.of(layer) for layer in layers]


def _linears(layer: Any) -> list[Any]:
    part, mlp = layer.self_attn, layer.mlp
    return [part.q_proj, part.k_proj, part.v_proj, part.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _plain(linear: Any) -> bool:
    """Whether it is a matrix of numbers in main memory that is multiplied, and nothing else."""
    if type(linear) is not nn.Linear or heard(linear):
        return False
    weight = linear.weight.data
    return type(weight) is Tensor and weight.device.type == "cpu" and weight.dtype == torch.float32


def _plain_mlp(mlp: Any) -> bool:
    kind = type(mlp)
    return kind.__name__.endswith("MLP") and kind.__module__.startswith("transformers.models.") and not heard(mlp)


def heard(module: Any) -> bool:
    """Whether something wants to see each forward of a module, or has changed it."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _joined(linears: Sequence[nn.Linear], norm: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """([in, out of all], bias); norm: [in], the weight of the norm before them."""
    joined = torch.cat([linear.weight.detach() for linear in linears])
    made = (joined if norm is None else joined.mul_(norm.detach())).t().contiguous()
    if all(linear.bias is None for linear in linears):
        return made, None
    biases = [made.new_zeros(n.out_features) if n.bias is None else n.bias.detach() for n in linears]
    return made, torch.cat(biases)


def _times(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, matrix) if bias is None else torch.addmm(bias, x, matrix)


def _plus(x: Tensor, y: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    made = torch.addmm(x, y, matrix)
    return made if bias is None else made.add_(bias)


def _normed(x: Tensor, eps: Tensor) -> Tensor:
    """x over its root mean square along the last axis."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.addcmul(eps, size, size, value=1 / x.shape[-1]).rsqrt_()
