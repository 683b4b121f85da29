"""Aggregation weights: hand tables, and invariance to order, micro-batches, padding and ranks."""

import pytest
import torch
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.aggregate import AGGREGATIONS, weights
from mmrl.core.reduce import local

# Lengths 1, 3 | 2, 0 | 0: group 0 has 4 actions, group 1 has 2 and an empty sequence, group 2 is empty.
LENGTHS = torch.tensor([1, 3, 2, 0, 0])
MASK = torch.arange(4)[None, :] < LENGTHS[:, None]
GROUP = torch.tensor([0, 0, 1, 1, 2])

# Weight of each trained action of each sequence.
TABLE = {
    "token_mean": [1 / 6, 1 / 6, 1 / 6],
    "sequence_mean": [1 / 3, 1 / 9, 1 / 6],
    "constant": [1 / 30, 1 / 30, 1 / 30],  # 3 sequences, constant_length 10
    "prompt_mean": [1 / 8, 1 / 8, 1 / 4],  # 2 groups
}


def of(mode, mask=MASK, group=GROUP, n_groups=3, reduce=local):
    return weights(mode, mask, group, n_groups, reduce, constant_length=10)


def test_the_table_covers_every_mode():
    assert set(TABLE) == set(AGGREGATIONS)


@every("mode", TABLE)
def test_hand_table(mode):
    expected = torch.zeros(5, 4, dtype=torch.float64)
    for row, value in enumerate(TABLE[mode]):
        expected[row, : LENGTHS[row]] = value
    got = of(mode)
    assert got.dtype == torch.float64
    assert torch.allclose(got, expected, atol=1e-15)


@pytest.mark.parametrize("mode", ["token_mean", "sequence_mean", "prompt_mean"])
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=12))
def test_means_have_weights_that_add_up_to_one(mode, rows):
    group = torch.tensor([g for g, _ in rows])
    mask = torch.arange(5)[None, :] < torch.tensor([n for _, n in rows])[:, None]
    total = of(mode, mask, group).sum().item()
    assert total == pytest.approx(1.0 if mask.any() else 0.0, abs=1e-12)


@every("mode", TABLE)
def test_a_batch_in_which_everything_is_masked_gives_zeros(mode):
    assert of(mode, torch.zeros_like(MASK)).tolist() == torch.zeros(5, 4).tolist()
    assert of(mode, torch.zeros(0, 4, dtype=torch.bool), GROUP[:0]).shape == (0, 4)


@every("mode", TABLE)
def test_order_of_samples_does_not_matter(mode):
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(of(mode, MASK[order], GROUP[order]), of(mode)[order])


@every("mode", TABLE)
def test_padding_and_the_place_of_masked_actions_do_not_matter(mode):
    """A prompt in front and padding behind: the same weights at the trained actions."""
    wide = torch.cat([torch.zeros(5, 2, dtype=torch.bool), MASK, torch.zeros(5, 3, dtype=torch.bool)], 1)
    assert torch.equal(of(mode, wide)[:, 2:6], of(mode))


@pytest.mark.parametrize("mode", TABLE)
def test_micro_batches_add_up_to_the_whole_gradient(mode):
    """Cut by rows and by columns; the parameter sits behind a nonlinear model of each action."""
    features = torch.randn(5, 4, 3, dtype=torch.float64)
    share = of(mode)

    def gradient(blocks):
        parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
        for rows, columns in blocks:
            loss = torch.tanh(features[rows, columns] @ parameter)
            (share[rows, columns] * loss).sum().backward()
        return parameter.grad

    whole = gradient([(slice(None), slice(None))])
    rows = gradient([(slice(i, i + 1), slice(None)) for i in range(5)])
    blocks = gradient([(r, c) for r in (slice(0, 2), slice(2, 5)) for c in (slice(0, 1), slice(1, 4))])
    assert torch.allclose(rows, whole, atol=1e-14)
    assert torch.allclose(blocks, whole, atol=1e-14)
    assert whole.abs().min() > 0


@pytest.mark.parametrize("mode", TABLE)
@pytest.mark.parametrize("cut", [0, 1, 3, 5])
def test_two_ranks_equal_one(mode, cut, ranks):
    """Also with a group on both ranks, ranks of different width, and a rank without samples."""
    rows, width = [slice(0, cut), slice(cut, 5)], [4, 3]

    def work(rank, reduce):
        return of(mode, MASK[rows[rank], : width[rank]], GROUP[rows[rank]], 3, reduce)

    first, second = ranks(work)
    whole = of(mode)
    assert torch.allclose(first, whole[:cut], atol=1e-15)
    assert torch.allclose(second, whole[cut:, :3], atol=1e-15)


def test_constant_without_a_length_is_an_error():
    with pytest.raises(ValueError, match="constant_length"):
        weights("constant", MASK, GROUP, 3, local)
