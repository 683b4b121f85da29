"""Rows in one line: attention is that of each row by itself, with its gradient, whatever the rows and their prompts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mmrl.engines import kernels, packing, pieces
from mmrl.engines.packing import LineMask, arranged

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


def drawn(lengths, seed, head=8, out=8):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 2, sum(lengths), size, generator=draw, dtype=torch.float64) for size in (head, head, out)]


def check(line, given, dtype=torch.float64, **tolerance):
    """Attention and gradients of given tensors in `dtype`, against each row's own in float64."""
    lengths, after = line
    found = [x.to(dtype).requires_grad_() for x in given]
    wanted = [x.detach().double().requires_grad_() for x in found]
    made = F.scaled_dot_product_attention(*found, attn_mask=LineMask.of(lengths, after, CPU), scale=0.3)
    real = row_by_row(*wanted, lengths, after, 0.3)
    assert made.dtype == dtype
    torch.testing.assert_close(made.double(), real, **tolerance)
    weights = torch.linspace(-1, 1, real.numel(), dtype=torch.float64).view_as(real)
    for one, other in zip(
        torch.autograd.grad((made * weights).sum(), found), torch.autograd.grad((real * weights).sum(), wanted)
    ):
        torch.testing.assert_close(one.double(), other, **tolerance)


@settings(max_examples=80, deadline=None)
@given(lines(), st.integers(0, 3))
def test_attention_and_its_gradient_are_those_of_rows_alone(line, seed):
    check(line, drawn(line[0], seed))


@settings(max_examples=40, deadline=None)
@given(lines(), st.integers(0, 3), st.sampled_from([1, 200, 2**24]))
def test_values_of_another_size_which_no_kernel_takes(line, seed, scores):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "SCORES", scores)
        check(line, drawn(line[0], seed, out=3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("out", [8, 3])
def test_numbers_of_fewer_bits(dtype, out):
    """Off by what they round, of sums over up to 90 tokens."""
    line = [30, 20, 9, 16, 1, 40], [None, None, 1, 0, 0, 1]
    bits = torch.finfo(dtype).eps
    check(line, drawn(line[0], 0, out=out), dtype, rtol=8 * bits, atol=8 * bits)


def flash_scores(query, key, query_ends, key_ends, causal, scale):
    """(queries, keys, scores) of each piece [h, q, k], causal from the last query and the last key on."""
    for q0, q1, k0, k1 in zip(query_ends, query_ends[1:], key_ends, key_ends[1:]):
        q, k = query[q0:q1].double().transpose(0, 1), key[k0:k1].double().transpose(0, 1)
        score = q @ k.transpose(1, 2) * scale
        ahead = torch.ones(score.shape[1:]).triu(score.shape[2] - score.shape[1] + 1).bool()
        yield slice(q0, q1), slice(k0, k1), score.masked_fill(ahead, -torch.inf) if causal else score


def flash_forward(query, key, value, query_ends, key_ends, longest, longest_key, dropout, causal, debug, *, scale):
    """torch's operator as it is described, in the place of its kernel."""
    assert (longest, longest_key) == (int(query_ends.diff().max()), int(key_ends.diff().max()))
    assert query_ends.dtype == key_ends.dtype == torch.int32 and not dropout and not debug
    out, lse = torch.full_like(query, torch.nan), torch.full((query.shape[1], len(query)), torch.nan)
    for q, k, score in flash_scores(query, key, query_ends, key_ends, causal, scale):
        lse[:, q] = score.logsumexp(-1).float()
        out[q] = (score.softmax(-1) @ value[k].double().transpose(0, 1)).transpose(0, 1).to(out.dtype)
    return out, lse, torch.zeros(2, dtype=torch.uint64), torch.empty(0), torch.empty(0)


def flash_backward(
    grad,
    query,
    key,
    value,
    out,
    lse,
    query_ends,
    key_ends,
    longest,
    longest_key,
    dropout,
    causal,
    state,
    unused,
    *,
    scale,
):
    assert lse.shape == (query.shape[1], len(query)) and lse.is_contiguous() and not dropout
    made = [torch.full_like(x, torch.nan) for x in (query, key, value)]
    for q, k, score in flash_scores(query, key, query_ends, key_ends, causal, scale):
        weight = torch.exp(score - lse[:, q, None].double())
        g, o, v = (x.double().transpose(0, 1) for x in (grad[q], out[q], value[k]))
        change = weight * (g @ v.transpose(1, 2) - (g * o).sum(-1, keepdim=True)) * scale
        of_pieces = change @ key[k].double().transpose(0, 1), change.transpose(1, 2) @ query[q].double().transpose(0, 1)
        for whole, place, part in zip(made, (q, k, k), (*of_pieces, weight.transpose(1, 2) @ g)):
            whole[place] = part.transpose(0, 1).to(whole.dtype)
    return tuple(made)


@pytest.fixture(scope="module")
def flash():
    """CUDA's flash attention of pieces, computed here: torch checks what it is given against its schema."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", flash_forward, "CPU")
    library.impl("_flash_attention_backward", flash_backward, "CPU")
    yield
    library._destroy()


@settings(max_examples=40, deadline=None)
@given(lines(), st.integers(0, 3))
def test_flash_attention_of_pieces_is_asked_for_what_they_are(flash, line, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "kernel_for", lambda query, value: kernels.Varlen())
        check(line, drawn(line[0], seed), rtol=1e-5, atol=1e-6)  # its log-sum-exp has 32 bits


class Large(TorchDispatchMode):
    """most: numbers of the largest tensor that was made inside."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, torch.Tensor) and x.untyped_storage().nbytes():
                self.most = max(self.most, x.untyped_storage().nbytes() // x.element_size())
        return made


def test_no_tensor_is_larger_than_the_line():
    """No mask of pairs, and no prompt once for each row: 40 rows behind 900 tokens, which a mask saw 40 * 20 * 920."""
    lengths, after = [900, *[20] * 40], [None, *[0] * 40]
    given = [x.float().requires_grad_() for x in drawn(lengths, 0)]
    with Large() as seen:
        mask = LineMask.of(lengths, after, CPU)
        F.scaled_dot_product_attention(*given, attn_mask=mask).sum().backward()
    assert 0 < seen.most <= given[0].numel()


def test_one_long_row_does_not_pad_many_short_ones():
    own = arranged([4000, *[20] * 200], [None] * 201, CPU).own.pieces
    assert sum(block.queries.rows * block.queries.width for block in own.blocks) == 4000 + 200 * 20


@pytest.mark.parametrize(
    ("prompt", "blocks"), [(60, [(36, 63)]), (100, [(4, 100), (32, 63)]), (128, [(4, 128), (32, 63)])]
)
def test_longer_prompts_do_not_pad_all_that_follows_them(prompt, blocks):
    """A block of its own where that spares much, and none for a little."""
    own = arranged([prompt] * 4 + [63] * 32, [None] * 4 + [0, 1, 2, 3] * 8, CPU).own.pieces
    assert [(block.queries.rows, block.queries.width) for block in own.blocks] == blocks


@settings(max_examples=40, deadline=None)
@given(lines())
def test_at_most_half_of_a_block_is_padding(line):
    found = arranged(*line, CPU)
    for part in (found.own, found.before) if found.before else (found.own,):
        for lengths, padded in ((part.pieces.queries, "queries"), (part.pieces.keys, "keys")):
            tokens = 0
            for block in (getattr(block, padded) for block in part.pieces.blocks):
                own = len(block.tokens)
                assert block.rows * (block.width - pieces.SLACK) <= pieces.RATIO * own
                tokens += own
            assert tokens == sum(lengths)


def test_autocast_reaches_the_attention_of_a_line():
    given = [x.float() for x in drawn([3, 2], 0)]
    with torch.autocast("cpu", torch.bfloat16):
        made = F.scaled_dot_product_attention(*given, attn_mask=LineMask.of([3, 2], [None, 0], CPU))
        plain = F.scaled_dot_product_attention(*given)
    assert made.dtype == plain.dtype == torch.bfloat16


def test_queries_that_share_keys():
    query, key, value = drawn([5, 3, 4], 0)
    query = torch.cat([query, query.flip(1)], 1)
    mask = LineMask.of([5, 3, 4], [None, 0, 0], CPU)
    shared = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    key, value = (x.repeat_interleave(2, 1) for x in (key, value))
    torch.testing.assert_close(shared, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


@pytest.mark.parametrize("out", [8, 3])
def test_a_gradient_of_its_gradient_is_refused(out):
    """Its log-sum-exp is no constant, as the backward takes it."""
    given = [x.requires_grad_() for x in drawn([5, 3, 4], 0, out=out)]
    made = F.scaled_dot_product_attention(*given, attn_mask=LineMask.of([5, 3, 4], [None, 0, 0], CPU))
    (grad,) = torch.autograd.grad(made.square().sum(), given[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.square().sum().backward()


@pytest.mark.parametrize(
    ("head", "dtype", "card", "fast"),
    [
        (128, torch.bfloat16, (9, 0), True),
        (256, torch.float16, (8, 9), True),
        (128, torch.bfloat16, (7, 5), False),
        (128, torch.float32, (9, 0), False),
        (208, torch.bfloat16, (9, 0), False),  # no backward on the cards from 8.6 to 8.9
        (192, torch.bfloat16, (8, 6), True),
        (100, torch.bfloat16, (9, 0), False),
        (264, torch.bfloat16, (9, 0), False),
    ],
)
def test_what_flash_attention_on_cuda_takes(head, dtype, card, fast, monkeypatch):
    class OnCuda(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    query = torch.zeros(3, 2, head, dtype=dtype).as_subclass(OnCuda)
    assert isinstance(kernels.kernel_for(query, query), kernels.Varlen) == fast


@pytest.mark.parametrize(
    "use",
    [
        lambda mask, x: x + mask,
        lambda mask, x: mask[:, :, :, :3],
        lambda mask, x: mask.to(torch.float32),
        lambda mask, x: torch.where(mask, x, x),
        lambda mask, x: F.scaled_dot_product_attention(x, x, x, attn_mask=mask, is_causal=True),
        lambda mask, x: F.scaled_dot_product_attention(x, x, x, attn_mask=mask, dropout_p=0.1),
        lambda mask, x: F.scaled_dot_product_attention(x[:, :, :1], x, x, attn_mask=mask),
        lambda mask, x: F.scaled_dot_product_attention(x.expand(2, -1, -1, -1), x, x, attn_mask=mask),
    ],
)
def test_what_is_not_attention_on_the_line_is_refused(use):
    mask = LineMask.of([3, 2], [None, 0], CPU)
    assert (mask.shape, mask.dtype, mask.dim(), mask.size(2)) == ((1, 1, 5, 5), torch.bool, 4, 5)
    with pytest.raises(TypeError, match=r"one line|LineMask"):
        use(mask, torch.zeros(1, 1, 5, 5))
