"""Groups without signal, on one rank and on two."""

import pytest
import torch

from mmrl.core.filter import zero_variance, zero_variance_share
from mmrl.core.reduce import local

# Group 0 has signal and an invalid sample, group 1 has none, group 2 only an invalid sample, group 3 no samples.
ADVANTAGE = torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
VALID = torch.tensor([1, 1, 1, 0, 1, 1, 0], dtype=torch.bool)
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 2])
KEEP = [True, True, True, False, False, False, False]


def test_hand_table():
    assert zero_variance(ADVANTAGE, VALID, GROUP, 4, local).tolist() == KEEP
    # Of the two groups with a valid sample, one is silent.
    assert zero_variance_share(ADVANTAGE, VALID, GROUP, 4, local).item() == 0.5


def test_an_invalid_sample_gives_no_signal():
    advantage = torch.tensor([0.0, 3.0])
    valid, group = torch.tensor([True, False]), torch.tensor([0, 0])
    assert zero_variance(advantage, valid, group, 1, local).tolist() == [False, False]
    assert zero_variance_share(advantage, valid, group, 1, local).item() == 1.0


def test_no_valid_sample_at_all():
    assert zero_variance_share(ADVANTAGE, torch.zeros_like(VALID), GROUP, 4, local).item() == 0.0


@pytest.mark.parametrize("cut", [0, 2, 4, 7])
def test_two_ranks_equal_one(ranks, cut):
    """Cut inside group 0 too: the half without signal of its own is kept for the other's."""
    rows = [slice(0, cut), slice(cut, 7)]

    def work(rank, reduce):
        own = (ADVANTAGE[rows[rank]], VALID[rows[rank]], GROUP[rows[rank]], 4, reduce)
        return zero_variance(*own).tolist(), zero_variance_share(*own).item()

    (first, share), (second, other) = ranks(work)
    assert first + second == KEEP
    assert share == other == 0.5
