"""Rows of unequal length in one line of tokens, without padding: only attention pads, block by block, and only inside.

Norms, projections and the layers between them see each token once, and know of no rows. Which tokens see which is told
by a mask that does the attention itself, so that a decoder needs nothing but `attention_mask` and sdpa for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# A block takes segments down to half of its longest one, and a little less, so that padding is at most half of it.
RATIO, SLACK = 2, 16
# Pairs of tokens in the mask of one block.
MASK_PAIRS = 2**26


@dataclass(frozen=True)
class _Padded:
    """Segments side by side: [rows, width] places, of which place `where[i]` has token `tokens[i]` of the line.

    source: [rows * width], the token of each place; an empty one has its row's first token, which nothing reads: it
    stands behind all that see it, or the mask hides it. where: None where no place is empty. whole: whether the tokens
    are those of the line, in order.
    """

    rows: int
    width: int
    source: Tensor
    tokens: Tensor
    where: Tensor | None
    whole: bool

    @classmethod
    def of(cls, spans: Sequence[tuple[int, int]], total: int, device: torch.device) -> _Padded:
        """spans: (first token, length) of each segment. total: tokens of the line."""
        starts, lengths = (torch.tensor(numbers) for numbers in zip(*spans))
        width = int(lengths.max())
        place = torch.arange(width)[None]
        filled = place < lengths[:, None]
        source = starts[:, None] + torch.where(filled, place, 0)
        tokens = source[filled]
        whole = len(tokens) == total and bool((tokens == torch.arange(total)).all())
        where = None if bool(filled.all()) else filled.flatten().nonzero()[:, 0].to(device)
        return cls(len(spans), width, source.flatten().to(device), tokens.to(device), where, whole)

    def pad(self, line: Tensor) -> Tensor:
        """[N, h, d] -> [rows, width, h, d]."""
        if not (self.whole and self.where is None):
            line = _Placed.apply(line, self)
        return line.view(self.rows, self.width, *line.shape[1:])

    def unpad(self, made: Tensor) -> Tensor:
        """[rows, width, h, d] -> [n, h, d], the tokens as in `tokens`."""
        flat = made.flatten(0, 1)
        return flat if self.where is None else _Taken.apply(flat, self)


class _Placed(torch.autograd.Function):
    """Tokens at their places. Empty ones have no gradient, so the backward has nothing to add up."""

    @staticmethod
    def forward(ctx: Any, line: Tensor, padded: _Padded) -> Tensor:
        ctx.padded, ctx.total = padded, len(line)
        return line.index_select(0, padded.source)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [grad], padded = gradients, ctx.padded
        own = grad if padded.where is None else grad.index_select(0, padded.where)
        if padded.whole:
            return own, None
        return grad.new_zeros(ctx.total, *grad.shape[1:]).index_copy_(0, padded.tokens, own), None


class _Taken(torch.autograd.Function):
    """The tokens of their places, of which each is taken once."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, padded: _Padded) -> Tensor:
        ctx.padded = padded
        assert padded.where is not None  # else nothing is left out
        return flat.index_select(0, padded.where)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [grad], padded = gradients, ctx.padded
        empty = grad.new_zeros(padded.rows * padded.width, *grad.shape[1:])
        return empty.index_copy_(0, padded.where, grad), None


@dataclass(frozen=True)
class _Block:
    """Segments whose attention is computed together: each sees itself causally, and all of the one that it follows.

    before: the segments that they follow, each once; owner: [rows], which of them. allowed: [rows, 1, width, keys]
    bool, keys being those of `before` and their own; None: causal, and no segment follows another.
    """

    own: _Padded
    before: _Padded | None
    owner: Tensor | None
    allowed: Tensor | None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """[N, h, d] of the line each -> [n, h, d] of the block's tokens."""
        q, k, v = (self._keys(x) if x is not query else self.own.pad(x) for x in (query, key, value))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        made = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.allowed, is_causal=self.allowed is None and q.shape[2] > 1, **options
        )
        return self.own.unpad(made.transpose(1, 2))

    def _keys(self, line: Tensor) -> Tensor:
        own = self.own.pad(line)
        if self.before is None or self.owner is None:
            return own
        return torch.cat([chosen(self.before.pad(line), self.owner), own], 1)


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


@dataclass(frozen=True)
class Arrangement:
    """blocks: of all segments. back: [N], where each token is in what they give one after the other; None: in place."""

    blocks: Sequence[_Block]
    back: Tensor | None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """[1, h, N, d] each, as F.scaled_dot_product_attention."""
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        made = [block.attend(q, k, v, **options) for block in self.blocks]
        line = made[0] if len(made) == 1 else torch.cat(made)
        line = line if self.back is None else line.index_select(0, self.back)
        return line.transpose(0, 1)[None]


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
        mask.arrangement, mask.asked = _arranged(lengths, after, device), 0
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
    **options: Any,
) -> Tensor:
    if not isinstance(attn_mask, LineMask) or is_causal or query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise TypeError("a mask for rows in one line, where one row of queries with their own keys was asked for")
    attn_mask.asked += 1
    return attn_mask.arrangement.attend(query, key, value, dropout_p=dropout_p, **options)


def _arranged(lengths: Sequence[int], after: Sequence[int | None], device: torch.device) -> Arrangement:
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    spans = list(zip(starts, lengths))
    filled = [i for i, length in enumerate(lengths) if length]
    apart = _groups([i for i in filled if not _seen(lengths, after, i)], lengths, after)
    following = _groups([i for i in filled if _seen(lengths, after, i)], lengths, after)
    blocks = [_block(group, spans, after, device) for group in (*apart, *following)]
    order = torch.cat([torch.arange(a, a + n) for g in (*apart, *following) for a, n in (spans[i] for i in g)])
    in_place = bool((order == torch.arange(starts[-1])).all())
    return Arrangement(blocks, None if in_place else torch.argsort(order).to(device))


def _seen(lengths: Sequence[int], after: Sequence[int | None], segment: int) -> int:
    """How many tokens a segment sees before its own."""
    owner = after[segment]
    return 0 if owner is None else lengths[owner]


def _groups(segments: Sequence[int], lengths: Sequence[int], after: Sequence[int | None]) -> list[list[int]]:
    """Segments that are padded together. Those of about one length stay in order."""
    if not segments:
        return []
    seen = {i: _seen(lengths, after, i) for i in segments}
    if all(_alike(max(x), min(x)) for x in ([lengths[i] for i in segments], list(seen.values()))):
        order = list(segments)
    else:
        classes = _classes(seen.values())  # else each length of a prompt would begin blocks of its own
        order = sorted(segments, key=lambda i: (-classes[seen[i]], -lengths[i], -seen[i]))
    groups: list[list[int]] = [[]]
    before, own = 0, 0  # the longest in the last group
    for i in order:
        wider, longer = max(before, seen[i]), max(own, lengths[i])
        pairs = (len(groups[-1]) + 1) * longer * (wider + longer) if seen[i] else 0
        fits = _alike(wider, min(seen[k] for k in (*groups[-1], i))) and pairs <= MASK_PAIRS
        if groups[-1] and not (fits and _alike(longer, min(lengths[k] for k in (*groups[-1], i)))):
            groups.append([])
            wider, longer = seen[i], lengths[i]
        groups[-1].append(i)
        before, own = wider, longer
    return groups


def _classes(lengths: Iterable[int]) -> dict[int, int]:
    """Of each length the longest one that it is alike to."""
    found: dict[int, int] = {}
    longest = 0
    for length in sorted(set(lengths), reverse=True):
        longest = longest if _alike(longest, length) and found else length
        found[length] = longest
    return found


def _alike(longest: int, shortest: int) -> bool:
    return longest <= RATIO * shortest + SLACK


def _block(
    group: Sequence[int], spans: Sequence[tuple[int, int]], after: Sequence[int | None], device: torch.device
) -> _Block:
    total = spans[-1][0] + spans[-1][1]
    own = _Padded.of([spans[i] for i in group], total, device)
    owners = [after[i] for i in group if after[i] is not None]
    if not owners or not any(spans[o][1] for o in owners if o is not None):
        return _Block(own, None, None, None)
    unique = sorted({o for o in owners if o is not None})
    before = _Padded.of([spans[o] for o in unique], total, device)
    owner = torch.tensor([unique.index(o) for o in owners if o is not None], device=device)
    known = torch.arange(before.width)[None] < torch.tensor([spans[o][1] for o in owners if o is not None])[:, None]
    causal = torch.ones(own.width, own.width, dtype=torch.bool).tril()
    allowed = torch.cat([known[:, None].expand(-1, own.width, -1), causal[None].expand(own.rows, -1, -1)], 2)
    return _Block(own, before, owner, allowed[:, None].to(device))
