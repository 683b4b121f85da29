"""The search of BAPO's bounds, by counting."""

import math

import pytest
import torch

from mmrl.core.batch import Batch
from mmrl.core.gate import GATES
from mmrl.core.gate_search import search_bounds
from mmrl.core.reduce import local
from mmrl.core.registry import Hook, prepared

# Ratios of the actions with A > 0 and with A < 0.
UP = [1.0, 1.25, 1.45, 2.0]
DOWN = [0.5, 0.65, 0.75, 1.0, 1.0, 5.0]


def batch(up=UP, down=DOWN, size=1.0, reduce=local):
    """One action a row; a masked row holds garbage."""
    r = torch.tensor([*up, *down, math.nan], dtype=torch.float64)
    a = torch.tensor([size] * len(up) + [-1.0] * len(down) + [math.nan], dtype=torch.float64)
    mask = torch.ones(len(r), 1, dtype=torch.bool)
    mask[-1] = False
    features = {"logp": r.log()[:, None], "advantage": a[:, None]}
    return Batch(torch.zeros(len(r), dtype=torch.int64), 1, mask, reduce, logp_old=0 * mask.double(), features=features)


def bounds(found):
    low, high = found.column("gate_low"), found.column("gate_high")
    assert low.unique().numel() == high.unique().numel() == 1
    return pytest.approx((low[0].item(), high[0].item()))


STEPS = {"low_step": 0.1, "high_step": 0.1, "by": "count"}


def search(target, **options):
    options = {"low_start": 0.6, "low_end": 0.9, "high_start": 1.2, "high_end": 1.8, **STEPS, **options}
    return search_bounds(batch(), target=target, **options)


def test_the_bounds_stay_where_the_share_is_reached():
    """At (0.6, 1.2) one positive action lives, of 1 + 4 (0.5 is cut, 5 is beyond the dual clip)."""
    assert bounds(search(0.2)) == (0.6, 1.2)


def test_high_is_raised_first_until_the_share_is_reached():
    """1.25 joins at high = 1.3 (2 of 6), 1.45 at 1.5 (3 of 7)."""
    assert bounds(search(0.33)) == (0.6, 1.3)
    assert bounds(search(0.42)) == (0.6, 1.5)


def test_low_follows_when_high_is_at_its_end():
    """At high = 1.8 three of seven; 0.65 is cut at 0.7: three of six, and 0.75 at 0.8: three of five."""
    assert bounds(search(0.5)) == (0.7, 1.8)
    assert bounds(search(0.6)) == (0.8, 1.8)


def test_a_share_out_of_reach_ends_at_the_widest_bounds():
    assert bounds(search(0.99)) == (0.9, 1.8)


def test_a_range_that_is_no_multiple_of_the_step_ends_at_its_end():
    assert bounds(search(0.99, high_end=1.75)) == (0.9, 1.75)


def test_by_size_weighs_with_the_gradient():
    """At (0.6, 1.2): positive 1.0 x 3, negative 0.65 + 0.75 + 1 + 1 = 3.4; share 3 / 6.4 = 0.469."""
    options = {"low_start": 0.6, "low_end": 0.9, "high_start": 1.2, "high_end": 1.8, **STEPS, "by": "size"}
    assert bounds(search_bounds(batch(size=3.0), target=0.46, **options)) == (0.6, 1.2)
    assert bounds(search_bounds(batch(size=3.0), target=0.48, **options)) == (0.6, 1.3)


def test_the_released_loop_runs_low_to_its_end_first():
    """Positive surrogates at high 1.2: 1 + 3 x 1.2 = 4.6; negative ones at low 0.6: 0.6 + 0.65 + 0.75 + 2 + 5 = 9,
    and at 0.9: 2.7 + 2 + 5 = 9.7: raising low moves the ratio away from the target."""
    assert bounds(search(0.51, released=True)) == (0.6, 1.2)
    # Above 4.6 / 9 = 0.511; with low at its end, high = 1.3 gives 4.85 / 9.7 = 0.5 and 1.4 gives 5.05 / 9.7 = 0.5206.
    assert bounds(search(0.515, released=True)) == (0.9, 1.4)


def test_the_search_sees_the_batch_of_all_ranks(ranks):
    parts = [(UP[:3], DOWN[:1]), (UP[3:], DOWN[1:])]
    options = {"low_start": 0.6, "low_end": 0.9, "high_start": 1.2, "high_end": 1.8, **STEPS, "target": 0.42}
    found = ranks(lambda rank, reduce: search_bounds(batch(*parts[rank], reduce=reduce), **options))
    for one in found:
        assert bounds(one) == (0.6, 1.5)


def test_the_registry_prepares_the_batch_with_the_hooks_options():
    """Four of eight: 0.5 is cut and 5 is beyond the dual clip."""
    hook = Hook("bapo", {"low_start": 0.52, "high_start": 3.0, "by": "count"})
    assert bounds(prepared(batch(), [(GATES, hook)])) == (0.52, 3.0)


def test_each_bound_has_its_own_step():
    """Steps of the example script: 0.05 below, 0.1 above."""
    assert bounds(search(0.33, low_step=0.05, high_step=0.3)) == (0.6, 1.5)
    assert bounds(search(0.5, low_step=0.05, high_step=0.3)) == (0.7, 1.8)
    assert bounds(search(0.5, low_step=0.3, high_step=0.1)) == (0.9, 1.8)


def test_a_batch_without_signed_actions_keeps_the_first_bounds():
    assert bounds(search_bounds(batch([], []))) == (0.6, 1.2)
