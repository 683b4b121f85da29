"""Rows of unequal length in one line of tokens, without padding: only attention may pad, block by block, and inside.

Norms, projections and the layers between them see each token once, and know of no rows. Which tokens see which is told
by a mask that does the attention itself, so that a decoder needs nothing but `attention_mask` and sdpa for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrl.copying import to_device
from mmrl.engines.kernels import Kernel, kernel_for
from mmrl.engines.pieces import Pieces

# Tokens of a line: a stretch, or these.
Place = slice | Tensor


@dataclass(frozen=True)
class Part:
    """Pieces of a line, and where their queries and keys are in it: no token is in the queries, or the keys, twice."""

    queries: Place
    keys: Place
    pieces: Pieces


@dataclass(frozen=True)
class Arrangement:
    """Attention of a line in parts: all of its segments by themselves, causally, and those that follow others to what
    they follow, whole. Both are merged by their log-sum-exp, so that no mask says what is seen, and what several
    segments follow is read once for all of them.

    own: of all tokens, in order. before: None where no segment follows another.
    """

    own: Part
    before: Part | None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
        """[1, h, N, d] each -> [1, h, N, e], as F.scaled_dot_product_attention."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        kernel = kernel_for(q, v)
        if self.before is None and not kernel.fast:
            line = _by_rows(q, k, v, self.own.pieces, scale)
        else:
            parts = (self.own,) if self.before is None else (self.own, self.before)
            line = _Merged.apply(q, k, v, parts, kernel, q.shape[-1] ** -0.5 if scale is None else scale)
        return line.transpose(0, 1)[None]


def _by_rows(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float | None) -> Tensor:
    """[N, h, d] each: causal attention of each piece by itself, by torch's own choice of a kernel."""
    line = None if len(pieces.blocks) == 1 else query.new_zeros(len(query), value.shape[1], value.shape[2])
    for block in pieces.blocks:
        q, k, v = map(block.queries.pad, (query, key, value))
        made = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, scale=scale)
        line = block.queries.put(made, line)
    assert line is not None
    return line


class _Merged(torch.autograd.Function):
    """The attention of parts as one. The backward of each needs the log-sum-exp and the result of all."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: Sequence[Part], kernel: Kernel, scale: float
    ) -> Tensor:
        first, *others = parts
        with torch.autocast(query.device.type, enabled=False):
            out, lse = kernel.forward(query, key, value, first.pieces, scale)
            for part in others:
                of, to = part.queries, part.keys
                more, weight = kernel.forward(query[of], key[to], value[to], part.pieces, scale)
                share = torch.sigmoid(weight - lse[of])[..., None]
                out[of] = torch.lerp(out[of].to(share.dtype), more.to(share.dtype), share).to(out.dtype)
                lse[of] = torch.logaddexp(lse[of], weight)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.parts, ctx.kernel, ctx.scale = parts, kernel, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        (grad,) = gradients
        first, *others = ctx.parts
        with torch.autocast(query.device.type, enabled=False):
            dq, dk, dv = ctx.kernel.backward(grad, query, key, value, out, lse, first.pieces, ctx.scale)
            for part in others:
                of, to = part.queries, part.keys
                given = (grad[of], query[of], key[to], value[to], out[of], lse[of])
                for whole, place, more in zip(
                    (dq, dk, dv), (of, to, to), ctx.kernel.backward(*given, part.pieces, ctx.scale)
                ):
                    whole[place] += more  # each place once, so that the order of sums is fixed on GPUs, too
        return dq, dk, dv, None, None, None


def chosen(x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first axis, where an index may stand several times: its gradients are summed in a fixed order
    on GPUs, too, so that a run can be repeated bit for bit."""
    made: Tensor = _Chosen.apply(x, index)
    return made


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        made = grad.new_zeros(ctx.shape)
        if grad.device.type == "cpu":
            return made.index_add_(0, index, grad), None
        return made.index_put_((index,), grad, accumulate=True), None  # sorts, where index_add_ takes what comes first


class LineMask(Tensor):
    """The attention mask [1, 1, N, N] of a line of segments. It holds no pairs: sdpa asks it for the attention itself.

    Whatever else a model does with its mask raises TypeError, so that no model is computed wrongly without a word.
    asked: how many times sdpa did, so that layers that leave their mask out are seen, too.
    """

    arrangement: Arrangement
    asked: int

    @staticmethod
    def of(lengths: Sequence[int], after: Sequence[int | None], device: torch.device) -> LineMask:
        """lengths: of the segments, one behind the other; 0 is allowed. after: the segment that each follows and sees
        whole, which itself follows none; None: it is a row of its own."""
        total = sum(lengths)
        mask = torch.zeros((), dtype=torch.bool, device=device).expand(1, 1, total, total).as_subclass(LineMask)
        mask.arrangement, mask.asked = arranged(lengths, after, device), 0
        return mask

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func.__name__ == "__get__" or func in _ASKED:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        raise TypeError(f"{func.__name__} of a mask for rows in one line: it is for sdpa alone")


_ASKED = (Tensor.dim, Tensor.size, Tensor.is_floating_point, Tensor.ndimension)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if not isinstance(attn_mask, LineMask) or is_causal or query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise TypeError("a mask for rows in one line, where one row of queries with their own keys was asked for")
    if dropout_p:
        raise TypeError("a mask for rows in one line, and dropout: what is replayed has none")
    attn_mask.asked += 1
    query, key, value = map(_autocast, (query, key, value))
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    return attn_mask.arrangement.attend(query, key, value, scale)


def _autocast(x: Tensor) -> Tensor:
    """As autocast hands it to sdpa."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


def arranged(lengths: Sequence[int], after: Sequence[int | None], device: torch.device) -> Arrangement:
    """See LineMask.of."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    filled = tuple(length for length in lengths if length)
    own = Part(slice(None), slice(None), Pieces(filled, filled, True, device))
    followers: dict[int, list[int]] = {}
    for segment, owner in enumerate(after):
        if owner is not None and lengths[owner] and lengths[segment]:
            followers.setdefault(owner, []).append(segment)
    if not followers:
        return Arrangement(own, None)
    queries = tuple(sum(lengths[i] for i in segments) for segments in followers.values())
    pieces = Pieces(queries, tuple(lengths[owner] for owner in followers), False, device)
    spans = list(pairwise(starts))
    asking = [spans[i] for segments in followers.values() for i in segments]
    return Arrangement(own, Part(_place(asking, device), _place([spans[o] for o in followers], device), pieces))


def _place(spans: Sequence[tuple[int, int]], device: torch.device) -> Place:
    """The tokens of spans (first, end), as one stretch where they are one."""
    if all(end == start for (_, end), (start, _) in pairwise(spans)):
        return slice(spans[0][0], spans[-1][1])
    return to_device(torch.cat([torch.arange(start, end) for start, end in spans]), device)
