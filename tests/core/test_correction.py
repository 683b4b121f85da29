"""Rollout corrections against a hand table of ratios, loops, and their relations to each other."""

import math

import pytest
import torch
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.batch import Batch
from mmrl.core.correction import CORRECTIONS, LEVELS, diagnostics, importance
from mmrl.core.reduce import local
from mmrl.core.registry import Hook

# Ratios of three samples; the last sample has one trained action, `x` marks what the mask hides.
# products 4, .25, 8; geometric means 4^(1/3), .5, 8.
X = 777.0
RATIOS = torch.tensor([[4.0, 2.0, 0.5], [0.25, 1.0, X], [8.0, X, X]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
GAP = torch.where(MASK, RATIOS.log(), 0.0)
ADVANTAGE = torch.tensor([[1.0], [-1.0], [-2.0]], dtype=torch.float64).expand(3, 3)
G = 4 ** (1 / 3)


def batch(mask=MASK, reduce=local, drift=0.0):
    """drift: logp - logp_old, by how much the policy has moved since."""
    old = torch.where(mask, -1.0, math.nan).double()
    group = torch.zeros(len(mask), dtype=torch.int64)
    return Batch(group, 1, mask, reduce, logp_old=old, features={"logp": old + drift})


def corrected(name, gap=GAP, mask=MASK, advantage=ADVANTAGE, **options):
    return CORRECTIONS.bind(Hook(name, options))(gap, batch(mask), advantage)


def effect(name, **options):
    """weight where kept, None where dropped, of the trained actions only, row by row."""
    weight, keep = corrected(name, **options)
    return [[float(weight[i, t]) if keep[i, t] else None for t in range(3) if MASK[i, t]] for i in range(len(MASK))]


HAND = [
    ("truncate", {}, [[2, 2, 0.5], [0.25, 1], [2]]),
    ("truncate", {"floor": 0.4, "cap": 3.0}, [[3, 2, 0.5], [0.4, 1], [3]]),
    ("truncate", {"level": "sequence", "cap": 5.0}, [[4] * 3, [0.25] * 2, [5]]),
    ("truncate", {"level": "geometric", "cap": 5.0}, [[G] * 3, [0.5] * 2, [5]]),
    ("mask", {}, [[0] * 3, [0.25] * 2, [0]]),
    ("mask", {"level": "token", "cap": 2.0}, [[0, 2, 0.5], [0.25, 1], [0]]),
    ("mask", {"level": "geometric", "drop": True}, [[G] * 3, [0.5] * 2, [None]]),
    ("icepop", {}, [[4, 2, 0.5], [0, 1], [0]]),
    ("icepop", {"drop": True}, [[4, 2, 0.5], [None, 1], [None]]),
    ("icepop", {"level": "sequence"}, [[4] * 3, [0] * 2, [0]]),
    ("geometric", {"low": 0.4, "high": 2.0}, [[1] * 3, [1] * 2, [None]]),
    ("geometric", {"low": 0.6, "high": 2.0, "drop": False}, [[1] * 3, [0] * 2, [0]]),
    # mean(logp_sampler - logp_old) is -log G, log 2, -log 8: only the second sample has moved away, and its A < 0.
    ("opsm", {"delta": 0.5, "drop": True}, [[1] * 3, [None] * 2, [1]]),
    ("opsm", {}, [[1] * 3, [0] * 2, [1]]),
    ("opsm", {"delta": 0.7}, [[1] * 3, [1] * 2, [1]]),
]


@every(("name", "options", "expected"), HAND)
def test_hand_table(name, options, expected):
    got = effect(name, **options)
    for row, wanted in zip(got, expected, strict=True):
        assert row == [w if w is None else pytest.approx(w) for w in wanted]


def test_the_hand_table_covers_every_correction():
    assert {name for name, _, _ in HAND} == set(CORRECTIONS)


def test_opsm_spares_good_answers():
    weight, _ = corrected("opsm", advantage=-ADVANTAGE, delta=0.0)
    assert torch.equal(weight[MASK], torch.ones(6))  # The first sample has A < 0 now, but moved the other way.


@every(("drift", "rejected"), [(-0.6, [0, 1, 1]), (-0.4, [0, 1, 0]), (0.3, [0, 0, 0])])
def test_opsm_follows_the_policy_that_is_updated(drift, rejected):
    """Sampled by logp_old but for sample 1, of which its engine was surer by log 2 = 0.69; samples 1 and 2 are bad."""
    gap = torch.where(MASK, torch.tensor([[0.0], [-math.log(2)], [0.0]]), 0.0).double()
    weight, _ = CORRECTIONS.bind(Hook("opsm"))(gap, batch(drift=drift), ADVANTAGE)
    assert [float(row[0]) for row in weight] == [1 - r for r in rejected]


@every("name", CORRECTIONS)
@every("level", LEVELS)
def test_no_gap_is_no_correction(name, level):
    options = {"level": level} if "level" in CORRECTIONS[name].options else {}
    weight, keep = corrected(name, gap=torch.zeros(3, 3), **options)
    assert torch.equal(weight, torch.ones(3, 3))
    assert torch.equal(keep, MASK)


@every("name", CORRECTIONS)
@every("garbage", [math.nan, math.inf, -900.0])
def test_padding_changes_nothing_and_stays_finite(name, garbage):
    weight, keep = corrected(name)
    again, keep_again = corrected(name, gap=torch.where(MASK, GAP, garbage))
    assert torch.equal(weight, again)
    assert torch.equal(keep, keep_again)
    assert weight.isfinite().all()
    assert not keep[~MASK].any()


@every("name", CORRECTIONS)
def test_nothing_is_differentiable_and_nothing_overflows(name):
    gap = torch.where(MASK, 500.0, 0.0).requires_grad_()
    weight, _ = corrected(name, gap=gap)
    assert not weight.requires_grad
    assert weight.isfinite().all()
    assert importance(gap, MASK, "sequence").amax().item() == pytest.approx(math.exp(20))


@pytest.mark.parametrize("name", CORRECTIONS)
def test_samples_are_corrected_one_by_one(name):
    gap = torch.randn(6, 4, dtype=torch.float64)
    mask = torch.rand(6, 4) > 0.3
    advantage = torch.randn(6, 1, dtype=torch.float64).expand(6, 4)
    gap = torch.where(mask, gap, 0.0)
    whole = corrected(name, gap, mask, advantage)
    rows = [corrected(name, gap[i : i + 1], mask[i : i + 1], advantage[i : i + 1]) for i in range(6)]
    for k in range(2):
        assert torch.equal(torch.cat([row[k] for row in rows]), whole[k])


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_the_levels_of_one_sample(gaps):
    gap = torch.tensor([gaps], dtype=torch.float64)
    mask = torch.ones_like(gap, dtype=torch.bool)
    product = math.prod(math.exp(g) for g in gaps)
    sequence, geometric = importance(gap, mask, "sequence"), importance(gap, mask, "geometric")
    assert sequence.flatten().tolist() == pytest.approx([product] * len(gaps))
    assert geometric.flatten().tolist() == pytest.approx([product ** (1 / len(gaps))] * len(gaps))


def test_a_sample_without_a_trained_action_is_left_alone():
    mask = torch.zeros(1, 3, dtype=torch.bool)
    for name in CORRECTIONS:
        weight, keep = corrected(name, torch.zeros(1, 3), mask, -torch.ones(1, 3))
        assert weight.isfinite().all()
        assert not keep.any()


@every(
    ("name", "options", "said"),
    [
        ("truncate", {"cap": 1.0, "floor": 2.0}, "floor=2 is above cap=1"),
        ("icepop", {"low": 6.0}, "low=6 is above high=5"),
        ("geometric", {"low": 2.0}, "low=2 is above high=1.01"),
        ("truncate", {"level": "sentence"}, "one of token, sequence, geometric"),
        ("mask", {"cap": 0.0}, "above 0"),
        ("mask", {"kap": 2.0}, "did you mean 'cap'"),
    ],
)
def test_wrong_options_are_named(name, options, said):
    with pytest.raises(ValueError, match=said):
        corrected(name, **options)


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_gap_is_an_error_on_every_rank(name, broken, ranks):
    """The first rank's numbers are fine."""
    gap = GAP.clone()
    gap[2, 0] = broken
    cuts = [slice(0, 2), slice(2, 3)]

    def work(rank, reduce):
        rows = cuts[rank]
        with pytest.raises(ValueError, match="not finite at 1 trained actions"):
            CORRECTIONS.bind(Hook(name))(gap[rows], batch(MASK[rows], reduce), ADVANTAGE[rows])
        return True

    assert ranks(work) == [True, True]


# ------------------------------------------------------------------ diagnostics

SEEN = [4, 2, 0.5, 0.25, 1, 8]  # The trained ratios.


def test_diagnostics_by_hand():
    weight, keep = corrected("icepop", drop=True)
    got = diagnostics(GAP, MASK, local, weight, keep)
    assert got == pytest.approx(
        {
            "rollout/ratio_mean": sum(SEEN) / 6,
            "rollout/ratio_max": 8,
            "rollout/ess": sum(SEEN) ** 2 / (6 * sum(r * r for r in SEEN)),
            "rollout/k1": sum(-math.log(r) for r in SEEN) / 6,
            "rollout/k3": sum(r - 1 - math.log(r) for r in SEEN) / 6,
            "rollout/cut": 2 / 6,
        }
    )


def test_zero_weights_count_as_cut():
    weight, keep = corrected("mask")
    assert diagnostics(GAP, MASK, local, weight, keep)["rollout/cut"] == pytest.approx(4 / 6)
    assert diagnostics(GAP, MASK, local)["rollout/cut"] == 0


def test_k1_and_k3_estimate_the_kl_of_sampler_and_policy():
    """Samples from q = (.7, .2, .1) in exact proportion, scored by p = (.5, .25, .25): sum q log(q/p)."""
    q, p = [0.7, 0.2, 0.1], [0.5, 0.25, 0.25]
    drawn = [0] * 7 + [1] * 2 + [2]
    gap = torch.tensor([[math.log(p[i] / q[i]) for i in drawn]], dtype=torch.float64)
    got = diagnostics(gap, torch.ones_like(gap, dtype=torch.bool), local)
    true = sum(a * math.log(a / b) for a, b in zip(q, p))
    assert got["rollout/k1"] == pytest.approx(true)
    assert got["rollout/k3"] == pytest.approx(true)  # Here the weights' mean is exactly 1.
    assert got["rollout/ratio_mean"] == pytest.approx(1)
    assert got["rollout/ess"] == pytest.approx(1 / sum(b * b / a for a, b in zip(q, p)))


def test_diagnostics_without_actions_are_zero():
    for shape in [(2, 3), (0, 3), (2, 0)]:
        got = diagnostics(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), local)
        assert set(got.values()) == {0.0}


def test_diagnostics_on_two_ranks_equal_one(ranks):
    """The second rank has fewer samples and a shorter batch."""
    weight, keep = corrected("mask")
    cuts = [(slice(0, 1), slice(0, 3)), (slice(1, 3), slice(0, 2))]

    def work(rank, reduce):
        return diagnostics(*(x[cuts[rank]] for x in (GAP, MASK)), reduce, weight[cuts[rank]], keep[cuts[rank]])

    whole = diagnostics(GAP, MASK, local, weight, keep)
    first, second = ranks(work)
    assert first == second
    assert first == pytest.approx(whole, abs=1e-12)
