"""Attention of pieces of a line with its log-sum-exp, forward and backward, by the kernel that is there for it.

The log-sum-exp is what merges attention to several pieces into one (packing.py). torch gives it by operators below
`scaled_dot_product_attention` alone; a test holds their arguments to torch's own schemas.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mmrl.engines.pieces import Block, Padded, Pieces

# Scores that the arithmetic without a kernel holds at one time.
SCORES = 2**24
# What flash attention on CUDA takes: sizes of a head up to it in steps, and cards from this generation on. Heads of the
# sizes in between have a backward on some of these cards only.
FLASH_HEAD, FLASH_STEP, FLASH_CARD = 256, 8, (8, 0)
SOME_CARDS = range(193, 225)

Gradients = tuple[Tensor, Tensor, Tensor]


class Kernel(Protocol):
    """query [n, h, d], key [m, h, d], value [m, h, e], of all pieces one behind the other.

    fast: whether it is a kernel, and not arithmetic in its place.
    """

    @property
    def fast(self) -> bool: ...

    def forward(self, query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float) -> tuple[Tensor, Tensor]:
        """(attention [n, h, e], log-sum-exp of the scores [n, h]); both may be written to."""
        ...

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        pieces: Pieces,
        scale: float,
    ) -> Gradients:
        """Of query, key and value, through these pieces. out, lse: of the whole attention, that to other pieces, too:
        each weight is exp(score - lse), and what it is compared with is what came out (Dao et al. 2022, appendix B)."""
        ...


def kernel_for(query: Tensor, value: Tensor) -> Kernel:
    """The fastest kernel that takes these numbers where they are."""
    head = query.shape[-1]
    flash = (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and head == value.shape[-1] <= FLASH_HEAD
        and head % FLASH_STEP == 0
        and head not in SOME_CARDS
        and torch.cuda.get_device_capability(query.device) >= FLASH_CARD
        and torch.version.hip is None
        and torch.backends.cuda.is_flash_attention_available()
    )
    if flash:
        return Varlen()
    return Rows(_CpuFlash() if query.device.type == "cpu" and head == value.shape[-1] else Arithmetic())


class Varlen:
    """Flash attention on CUDA: pieces of any lengths in one call, nothing padded."""

    fast = True

    def forward(self, query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float) -> tuple[Tensor, Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            *map(_aligned, (query, key, value)), *_lengths(pieces), 0.0, pieces.causal, False, scale=scale
        )
        return out, lse.transpose(0, 1).contiguous()

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        pieces: Pieces,
        scale: float,
    ) -> Gradients:
        drawn = torch.zeros(2, dtype=torch.uint64, device=query.device)  # of dropout, of which there is none
        unused = torch.empty(0, device=query.device)
        given = (*map(_aligned, (grad, query, key, value, out)), lse.transpose(0, 1).contiguous())
        made: Gradients = torch.ops.aten._flash_attention_backward(
            *given, *_lengths(pieces), 0.0, pieces.causal, drawn, unused, scale=scale
        )
        return made


def _lengths(pieces: Pieces) -> tuple[Tensor, Tensor, int, int]:
    return pieces.query_ends, pieces.key_ends, max(pieces.queries), max(pieces.keys)


class Rows:
    """Pieces of about one length as rows of a batch, padded; by an operator that knows nothing but rows."""

    def __init__(self, operator: _Operator) -> None:
        self.operator = operator

    @property
    def fast(self) -> bool:
        """Whether it is a kernel."""
        return not isinstance(self.operator, Arithmetic)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float) -> tuple[Tensor, Tensor]:
        out: Tensor | None = None
        lse: Tensor | None = None
        for block in pieces.blocks:
            q, k, v = block.queries.pad(query), block.keys.pad(key), block.keys.pad(value)
            q, k, v = map(_aligned, (q, k, v))
            made = self.operator.forward(q, k, v, _mask(block, q), pieces.causal, scale)
            out, lse = _into(out, block.queries, made[0], len(query)), _into(lse, block.queries, made[1], len(query))
        assert out is not None and lse is not None
        return out, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        pieces: Pieces,
        scale: float,
    ) -> Gradients:
        dq: Tensor | None = None
        dk: Tensor | None = None
        dv: Tensor | None = None
        for block in pieces.blocks:
            g = block.queries.pad_gradient(grad)
            q, o, weight = (block.queries.pad(x) for x in (query, out, lse))
            k, v = block.keys.pad(key), block.keys.pad(value)
            g, q, k, v, o = map(_aligned, (g, q, k, v, o))
            made = self.operator.backward(g, q, k, v, o, weight, _mask(block, q), pieces.causal, scale)
            dq = _into(dq, block.queries, made[0], len(query))
            dk, dv = _into(dk, block.keys, made[1], len(key)), _into(dv, block.keys, made[2], len(key))
        assert dq is not None and dk is not None and dv is not None
        return dq, dk, dv


def _into(line: Tensor | None, place: Padded, rows: Tensor, tokens: int) -> Tensor:
    """Rows of a block [b, h, t, ...] at their tokens of a line [tokens, h, ...], which the first block makes."""
    if line is None and not place.everything:
        line = rows.new_empty(tokens, rows.shape[1], *rows.shape[3:])
    return place.put(rows, line)


class _Operator(Protocol):
    """Attention of rows [b, h, t, d]; mask: [b, 1, 1, keys], added to the scores."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float, /
    ) -> tuple[Tensor, Tensor]: ...

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
        /,
    ) -> Gradients: ...


class _CpuFlash:
    """What `scaled_dot_product_attention` runs on a CPU."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        return out, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        made: Gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, causal, attn_mask=mask, scale=scale
        )
        return made


class Arithmetic:
    """The formula, some queries at a time: for numbers that no kernel takes."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        q, k, v = map(_wide, (query, key, value))
        out, lse = q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3])
        for some in _chunks(q, k):
            score = _scores(q, k, mask, causal, scale, some)
            lse[:, :, some] = score.logsumexp(3)
            out[:, :, some] = torch.exp(score - lse[:, :, some, None]) @ v
        return out.to(query.dtype), lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        g, q, k, v, o = map(_wide, (grad, query, key, value, out))
        compared = (g * o).sum(3, keepdim=True)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for some in _chunks(q, k):
            weight = torch.exp(_scores(q, k, mask, causal, scale, some) - lse[:, :, some, None])
            dv += weight.transpose(2, 3) @ g[:, :, some]
            change = weight * (g[:, :, some] @ v.transpose(2, 3) - compared[:, :, some]) * scale
            dq[:, :, some] = change @ k
            dk += change.transpose(2, 3) @ q[:, :, some]
        return dq.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype)


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    width = max(1, SCORES // (query.shape[0] * query.shape[1] * key.shape[2]))
    return [slice(start, start + width) for start in range(0, query.shape[2], width)]


def _scores(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float, some: slice) -> Tensor:
    score = query[:, :, some] @ key.transpose(2, 3) * scale
    if mask is not None:
        score = score + mask
    if causal:
        ahead = torch.ones(score.shape[2:], dtype=torch.bool, device=score.device).triu(some.start + 1)
        score = score.masked_fill(ahead, -torch.inf)
    return score


def _mask(block: Block, query: Tensor) -> Tensor | None:
    if block.unseen is None:
        return None
    return query.new_zeros(block.unseen.shape).masked_fill(block.unseen, -torch.inf)[:, None, None]


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _aligned(x: Tensor) -> Tensor:
    """The numbers of a head one behind the other, as kernels want them."""
    return x if x.stride(-1) == 1 else x.contiguous()
