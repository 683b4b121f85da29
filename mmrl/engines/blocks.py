"""One more token of each row by the arithmetic of the usual decoder block, without the library's forward around it.

That forward makes masks, passes its arguments through many hands, and takes norms and rotations apart into small
operations. For a token at a time that shows: 5 to 17 % of a rollout of 4 M parameters on busy cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrl.engines.folded_blocks import folded, heard

# Layers that are a norm, attention on rotated queries and keys, a norm and an MLP, and nothing else. A decoder of these
# is tried before its blocks are used (ways.py). No other is, as a short trial cannot show what begins late: a window,
# or a temperature that depends on the position.
KNOWN = frozenset(
    {
        "LlamaDecoderLayer",
        "MistralDecoderLayer",
        "Qwen2DecoderLayer",
        "Qwen3DecoderLayer",
        "Qwen2VLDecoderLayer",
        "Qwen2_5_VLDecoderLayer",
        "Qwen3VLTextDecoderLayer",
    }
)


# Rotations that are a function of the position alone.
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")


class Blocks:
    """The layers of a transformers decoder whose `usable` is true, on a cache of RoomyLayers. No gradient.

    fold: with copies of the weights as they are now (folded_blocks), where that is possible. positions: (first, behind
    the last) of the tokens to come.
    """

    def __init__(self, module: Any, positions: tuple[int, int], fold: bool) -> None:
        self.module = module
        self._folded = folded(module.layers) if fold else None
        self._first = positions[0]
        self._turns: tuple[Tensor, Tensor] | None = None
        if getattr(module.rotary_emb, "rope_type", None) in _FIXED_ROPE:
            every = torch.arange(*positions, device=module.device)
            self._turns = self._rotation(module.get_input_embeddings().weight[:1], every)

    @staticmethod
    def usable(module: Any, cache: Any = None) -> bool:
        """Whether a decoder is of known layers in float32 that nobody listens to, and a cache has no window."""
        from mmrl.engines.cache import RoomyLayer

        layers = getattr(module, "layers", ())
        if not layers or not all(_known(type(layer)) for layer in layers):
            return False
        if cache is not None and any(type(layer) is not RoomyLayer for layer in cache.layers):
            return False
        exact = module.dtype == torch.float32 and not torch.is_autocast_enabled(module.device.type)
        return exact and module.config._attn_implementation == "sdpa" and not any(map(heard, _passed_by(module)))

    @property
    def alone(self) -> bool:
        """Whether nobody listens to what is computed inside of the blocks either, and might keep it."""
        return not any(map(heard, self.module.modules()))

    def step(self, token: Tensor, position: Tensor, cache: Any, mask: Tensor | None) -> Tensor:
        """Hidden states [b, D] after one more token [b] at position [b]. mask: [b, 1, 1, seen + 1] bool, False where
        padding is; None: nowhere."""
        x = self.module.get_input_embeddings()(token)
        if self._turns is None:
            cos, turn = self._rotation(x, position)
        else:
            at = position - self._first
            cos, turn = (one.index_select(0, at) for one in self._turns)
        if self._folded is not None:
            for folded_layer, kept in zip(self._folded, cache.layers):
                x = folded_layer(x, cos, turn, kept, mask)
            return _norm(self.module.norm, x)
        for layer, kept in zip(self.module.layers, cache.layers):
            x = x + _attention(layer.self_attn, _norm(layer.input_layernorm, x), cos, turn, kept, mask)
            x = x + layer.mlp(_norm(layer.post_attention_layernorm, x))
        return _norm(self.module.norm, x)

    def _rotation(self, like: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """cos, turn: [b, 1, d], the same for all heads, at positions [b]; turn has the sign of rotate_half in it."""
        cos, sin = self.module.rotary_emb(like[:, None], position[:, None])
        half = sin.shape[-1] // 2
        return cos, torch.cat([-sin[..., :half], sin[..., half:]], -1)


def _attention(part: Any, x: Tensor, cos: Tensor, turn: Tensor, kept: Any, mask: Tensor | None) -> Tensor:
    """[b, D] -> [b, D]. cos, turn: [b, 1, d], the rotation."""
    b, d = len(x), part.head_dim
    queries, keys, values = (project(x).view(b, -1, d) for project in (part.q_proj, part.k_proj, part.v_proj))
    if hasattr(part, "q_norm"):
        queries, keys = _norm(part.q_norm, queries), _norm(part.k_norm, keys)
    heads, groups = queries.shape[1], keys.shape[1]
    both = torch.cat([queries, keys], 1)
    both = torch.addcmul(both * cos, both.roll(d // 2, -1), turn)
    queries, keys = both.split([heads, groups], 1)
    keys, values = kept.update(keys[:, :, None], values[:, :, None])
    # The heads of a group stand where queries of several tokens would, so that its keys are not repeated for them.
    found = F.scaled_dot_product_attention(
        queries.unflatten(1, (groups, heads // groups)), keys, values, attn_mask=mask, scale=part.scaling
    )
    return part.o_proj(found.reshape(b, heads * d))


def _norm(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _known(layer: type) -> bool:
    return layer.__name__ in KNOWN and layer.__module__.startswith("transformers.models.")


def _passed_by(module: Any) -> Iterator[Any]:
    """The modules whose own forward is not called."""
    yield module
    yield module.norm
    for layer in module.layers:
        part = layer.self_attn
        yield from (layer, part, layer.input_layernorm, layer.post_attention_layernorm)
        yield from (getattr(part, name) for name in ("q_norm", "k_norm") if hasattr(part, name))
