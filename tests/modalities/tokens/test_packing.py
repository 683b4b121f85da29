"""Rows in one line: attention is that of each row by itself, with its gradient, whatever the rows and their prompts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.engines import packing
from mmrl.engines.packing import LineMask

CPU = torch.device("cpu")


@st.composite
def lines(draw):
    """(lengths, after): some beginnings of rows, and what follows them in any order, some of it empty."""
    beginnings = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    following = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, len(beginnings) - 1)), max_size=6))
    alone = draw(st.lists(st.integers(1, 3), max_size=2))
    lengths = [*beginnings, *(n for n, _ in following), *alone]
    after = [*[None] * len(beginnings), *(one for _, one in following), *[None] * len(alone)]
    return lengths, after


def row_by_row(query, key, value, lengths, after, scale):
    """Each segment's attention by the formula, on all that it sees."""
    parts = [[x[0, :, start : start + n] for x in (query, key, value)] for start, n in spans(lengths)]
    made = []
    for (q, k, v), owner in zip(parts, after):
        if owner is not None:
            k, v = (torch.cat([before, x], 1) for before, x in zip(parts[owner][1:], (k, v)))
        score = q @ k.transpose(1, 2) * scale
        ahead = torch.ones(q.shape[1], k.shape[1]).triu(k.shape[1] - q.shape[1] + 1).bool()
        made.append(score.masked_fill(ahead, -torch.inf).softmax(-1) @ v)
    return torch.cat(made, 1)[None]


def spans(lengths):
    start = 0
    for n in lengths:
        yield start, n
        start += n


@settings(max_examples=80, deadline=None)
@given(lines(), st.integers(0, 3), st.sampled_from([1, 300, 2**26]))
def test_attention_and_its_gradient_are_those_of_rows_alone(line, seed, pairs):
    lengths, after = line
    draw = torch.Generator().manual_seed(seed)
    found = [torch.randn(1, 2, sum(lengths), 4, generator=draw, dtype=torch.float64) for _ in range(3)]
    wanted = [x.clone().requires_grad_() for x in found]
    found = [x.requires_grad_() for x in found]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "MASK_PAIRS", pairs)  # blocks are cut smaller, and compute the same
        mask = LineMask.of(lengths, after, CPU)
    made = F.scaled_dot_product_attention(*found, attn_mask=mask, scale=0.3)
    real = row_by_row(*wanted, lengths, after, 0.3)
    torch.testing.assert_close(made, real)
    weights = torch.linspace(-1, 1, real.numel(), dtype=torch.float64).view_as(real)
    for one, other in zip(
        torch.autograd.grad((made * weights).sum(), found), torch.autograd.grad((real * weights).sum(), wanted)
    ):
        torch.testing.assert_close(one, other)


def test_one_long_row_does_not_pad_many_short_ones():
    mask = LineMask.of([4000, *[20] * 200], [None] * 201, CPU)
    padded = sum(block.own.rows * block.own.width for block in mask.arrangement.blocks)
    assert padded == 4000 + 200 * 20


@settings(max_examples=40, deadline=None)
@given(lines())
def test_at_most_half_of_a_block_is_padding(line):
    lengths, after = line
    for block in LineMask.of(lengths, after, CPU).arrangement.blocks:
        own = block.own
        tokens = sum(lengths) if own.tokens is None else len(own.tokens)
        assert own.rows * (own.width - packing.SLACK) <= packing.RATIO * tokens


@pytest.mark.parametrize(
    "use",
    [
        lambda mask, x: x + mask,
        lambda mask, x: mask[:, :, :, :3],
        lambda mask, x: mask.to(torch.float32),
        lambda mask, x: torch.where(mask, x, x),
        lambda mask, x: F.scaled_dot_product_attention(x, x, x, attn_mask=mask, is_causal=True),
        lambda mask, x: F.scaled_dot_product_attention(x[:, :, :1], x, x, attn_mask=mask),
        lambda mask, x: F.scaled_dot_product_attention(x.expand(2, -1, -1, -1), x, x, attn_mask=mask),
    ],
)
def test_what_is_not_attention_on_the_line_is_refused(use):
    mask = LineMask.of([3, 2], [None, 0], CPU)
    assert (mask.shape, mask.dtype, mask.dim(), mask.size(2)) == ((1, 1, 5, 5), torch.bool, 4, 5)
    with pytest.raises(TypeError, match=r"one line|LineMask"):
        use(mask, torch.zeros(1, 1, 5, 5))
