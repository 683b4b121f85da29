"""Segment statistics against numbers worked out by hand and the statistics module."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core import groups
from mmrl.core.reduce import local

VALUES = torch.tensor([1.0, 10.0, 3.0, float("nan"), 5.0])
VALID = torch.tensor([True, True, True, False, True])
GROUP = torch.tensor([0, 2, 0, 0, 0])


def test_hand_table():
    args = (VALUES, VALID, GROUP, 3, local)
    assert groups.group_count(VALID, GROUP, 3, local).tolist() == [3, 0, 1]
    assert groups.group_mean(*args).tolist() == [3, 0, 10]
    assert groups.group_std(*args).tolist() == [2, 0, 0]
    assert groups.group_std(*args, ddof=0).tolist() == pytest.approx([(8 / 3) ** 0.5, 0, 0])
    assert groups.group_mean(*args).dtype == torch.float64


def test_columns_are_independent():
    values = torch.stack([VALUES, 2 * VALUES], 1)
    valid = torch.stack([VALID, torch.tensor([True, True, False, False, True])], 1)
    assert groups.group_mean(values, valid, GROUP, 3, local).tolist() == [[3, 6], [0, 0], [10, 20]]
    std = groups.group_std(values, valid, GROUP, 3, local)
    assert torch.allclose(std[:, 1], torch.tensor([32**0.5, 0, 0], dtype=torch.float64))


def test_a_large_offset_costs_no_precision():
    values = torch.tensor([1e9, 1e9 + 1, 1e9 + 2], dtype=torch.float64)
    valid, group = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    assert groups.group_std(values, valid, group, 1, local).item() == pytest.approx(1.0, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-100, 100)), min_size=1, max_size=30))
def test_agrees_with_the_statistics_module(rows):
    group = torch.tensor([g for g, _ in rows])
    values = torch.tensor([v for _, v in rows], dtype=torch.float64)
    valid = torch.ones(len(rows), dtype=torch.bool)
    mean = groups.group_mean(values, valid, group, 4, local)
    sample = groups.group_std(values, valid, group, 4, local, ddof=1)
    population = groups.group_std(values, valid, group, 4, local, ddof=0)
    for g in set(group.tolist()):
        members = [v for i, v in rows if i == g]
        assert mean[g].item() == pytest.approx(statistics.fmean(members), abs=1e-9)
        assert population[g].item() == pytest.approx(statistics.pstdev(members), abs=1e-9)
        expected = statistics.stdev(members) if len(members) > 1 else 0.0
        assert sample[g].item() == pytest.approx(expected, abs=1e-9)


def test_ranks_see_the_whole_group(ranks):
    cuts = [slice(0, 2), slice(2, 5)]

    def work(rank, reduce):
        rows = cuts[rank]
        return groups.group_std(VALUES[rows], VALID[rows], GROUP[rows], 3, reduce)

    assert [x.tolist() for x in ranks(work)] == [[2, 0, 0], [2, 0, 0]]


def test_a_rank_without_samples_takes_part(ranks):
    def work(rank, reduce):
        rows = slice(0, 5 if rank == 0 else 0)
        mean = groups.group_mean(VALUES[rows], VALID[rows], GROUP[rows], 3, reduce)
        std = groups.batch_std(VALUES[rows], VALID[rows], reduce)
        return mean.tolist(), std.item()

    first, second = ranks(work)
    assert first == second == ([3, 0, 10], pytest.approx(statistics.stdev([1, 10, 3, 5])))


def test_batch_statistics_skip_invalid_samples():
    assert groups.batch_mean(VALUES, VALID, local).item() == 4.75
    assert groups.batch_std(VALUES, VALID, local, 0).item() == pytest.approx(statistics.pstdev([1, 10, 3, 5]))
