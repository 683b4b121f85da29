"""The bounds on an engine's log-probs: rounding passes, and what is wrong with weights or models does not."""

from __future__ import annotations

import math

import pytest
import torch

from mmrl.engines.agreement import default_tolerance, measure


def rows(*values):
    return [torch.tensor(v, dtype=torch.float32) for v in values]


def test_numbers_by_hand():
    found = measure(rows([-1.0, -2.0], [-3.0]), rows([-1.5, -2.0], [-2.75]), rows([-1.5, -2.0], [-2.75]))
    assert (found.largest, found.mean, found.high) == (0.5, 0.25, 0.5)
    assert (found.completion, found.token) == (0, 0)


def test_a_range_is_kept_from_both_sides():
    found = measure(rows([-1.0, -2.0, -4.0]), rows([-3.0, -1.5, -4.5]), rows([-1.5, -1.0, -3.5]))
    assert (found.largest, found.token) == (0.5, 0) and found.mean == pytest.approx(1.0 / 3)


@pytest.mark.parametrize(
    ("count", "outliers", "passes"), [(99, 1, False), (100, 1, True), (300, 3, True), (300, 4, False)]
)
def test_one_token_in_a_hundred_may_be_far(count, outliers, passes):
    own, trainer = torch.zeros(count), torch.zeros(count)
    own[:outliers] = 0.5
    found = measure([own], [trainer], [trainer])
    assert found.within(0.1) == passes and found.largest == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes(value):
    own = torch.zeros(1000)
    own[3] = value
    assert not measure([own], [torch.zeros(1000)], [torch.zeros(1000)]).within(1e9)


def noise(spread, count=2000):
    return spread * torch.randn(count, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("dtype", "spread", "passes"),
    [
        ("float32", 2e-5, True),  # the most that was seen between kernels
        ("float32", 2e-3, False),
        ("bfloat16", 0.02, True),  # hundredths: a logit of 10 is known to 1/32
        ("float16", 0.01, True),
        ("bfloat16", 0.1, False),  # weights of a step before (largest 0.28 of some hundred tokens)
        ("bfloat16", 0.3, False),  # a soft cap left out (largest 0.97)
    ],
)
def test_each_precision_has_a_bound_between_its_rounding_and_what_is_wrong(dtype, spread, passes):
    gap, zero = noise(spread), torch.zeros(2000)
    assert measure([gap], [zero], [zero]).within(default_tolerance(dtype)) == passes


def test_a_small_shift_of_all_tokens_is_found_by_the_mean():
    own, zero = torch.full((2000,), 0.05), torch.zeros(2000)
    found = measure([own], [zero], [zero])
    assert found.high < 0.1 and not found.within(0.1)


@pytest.mark.parametrize(
    ("own", "trainer", "message"),
    [
        ([], [], "0 completions"),
        (rows([-1.0, -1.0]), rows([-1.0]), "completion 0 has"),
        (rows([]), rows([]), "no token"),
    ],
)
def test_what_cannot_be_compared_is_an_error(own, trainer, message):
    with pytest.raises(ValueError, match=message.replace("no token", "without a token")):
        measure(own, trainer, trainer)
