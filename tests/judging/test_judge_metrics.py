"""Figures of judges against tables worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmrl.data.pairs import Broken
from mmrl.judging.base import Verdict
from mmrl.judging.benchmarks import WEIGHTS, official, ranking, ties_score
from mmrl.judging.calibration import reliability
from mmrl.judging.judged import Judged, Shown, credit, voted
from mmrl.judging.metrics import by_category, figures, macro
from mmrl.types import Score


def values(figures, *names):
    return [getattr(figures, name).value for name in names]


# -------------------------------------------------------------------- verdicts and votes


@pytest.mark.parametrize(
    ("right", "said", "worth"),
    [
        ((1, 0), (1, 0), 1),
        ((1, 0), (0.7, 0.3), 1),
        ((0.6, 0.4), (0.4, 0.6), 0),
        ((1, 0), (0.5, 0.5), 0.5),
        ((1, 0), None, 0),
        ((1, 0, 0, 0), (0.5, 0.5, 0, 0), 0.5),  # RewardBench 2: 1 / options with the maximum
        ((1, 0, 0, 0), (0, 0.5, 0.5, 0), 0),
        ((1, 0, 0, 0), (0.25,) * 4, 0.25),
        ((0.5, 0.5, 0, 0), (0, 1, 0, 0), 1),  # two right answers
        ((0.5, 0.5, 0, 0), (0, 0.5, 0.5, 0), 0.5),
        ((0.5, 0.5), (1, 0), 0),  # nothing is right to prefer
    ],
)
def test_what_a_verdict_is_worth(pair, right, said, worth):
    one = pair("a", shares=right, answers="wxyz"[: len(right)])
    assert credit(one, Verdict(said)) == pytest.approx(worth)


FIRST, SECOND, NONE, BOTH = Verdict((1, 0)), Verdict((0, 1)), Verdict(None, "double"), Verdict((0.5, 0.5))


@pytest.mark.parametrize(
    ("votes", "shares"),
    [
        ([FIRST, FIRST, SECOND], (2 / 3, 1 / 3)),
        ([SECOND, NONE, NONE], (0, 1)),  # votes that were not cast do not count
        ([FIRST, SECOND], (0.5, 0.5)),  # even
        ([FIRST, BOTH, SECOND, SECOND], (1.5 / 4, 2.5 / 4)),
        ([Verdict((0.7, 0.3))], (0.7, 0.3)),  # one alone stays soft
        ([Verdict((0.7, 0.3)), Verdict((0.4, 0.6)), Verdict((0.9, 0.1))], (2 / 3, 1 / 3)),  # each is one vote
        ([NONE, NONE], None),
    ],
)
def test_votes(votes, shares):
    verdict = voted(votes)
    assert verdict.shares == (None if shares is None else pytest.approx(shares))
    assert verdict.reason == ("double" if shares is None else "")


# -------------------------------------------------------------------- figures


def test_a_table_by_hand(pair, judged):
    # Places that are preferred, in the pair's order and in the other one.
    table = [
        judged(pair("a", better=0), [0, 1]),  # right, right
        judged(pair("b", better=1), [0, 0]),  # wrong, right: says "first" twice
        judged(pair("c", better=1), [1, None]),  # right, nothing
        judged(pair("d", better=0), [1, 0]),  # wrong, wrong, consistently
        judged(pair("e", better=0), ["tie", 1]),  # a half, right
        judged(pair("f", shares=(0.5, 0.5)), [0, 1]),  # the data prefer none
    ]
    found = figures(table)
    assert found.accuracy.value == pytest.approx((2 + 1 + 1 + 0 + 1.5) / 10)
    assert found.accuracy_parsed.value == pytest.approx(5.5 / 9)
    assert found.every_order.value == pytest.approx(1 / 5)
    assert found.consistency.value == pytest.approx(3 / 5)  # a, d, f of a, b, d, e, f
    # First places: a 1+0, b 1+1, c 0, d 0+1, e half+0, f 1+0 of 11 verdicts.
    assert found.first.value == pytest.approx((1 + 2 + 0 + 1 + 0.5 + 1) / 11)
    assert found.chance == 0.5
    assert (found.pairs, found.showings, found.failed, found.undecided, found.tied) == (6, 12, 1, 1, 1)
    assert found.failure_rate == pytest.approx(1 / 12)
    assert found.reasons == {"said nothing": 1}
    assert found.acc_plus.value is None
    # Two records that could not be read are two pairs more, of two showings each, that are not right.
    worse = figures(table, [Broken("x:1", "no label"), Broken("x:2", "no label")])
    assert worse.accuracy.value == pytest.approx(5.5 / 14)
    assert worse.every_order.value == pytest.approx(1 / 7)
    assert values(worse, "accuracy_parsed", "consistency") == values(found, "accuracy_parsed", "consistency")


@pytest.mark.parametrize(("place", "words"), [(0, "prefers the first place: 100%"), (1, "avoids the first place: 0%")])
def test_a_judge_of_places_has_half_and_is_flagged(pair, judged, place, words):
    found = figures([judged(pair(str(i), better=i % 2), [place, place]) for i in range(8)])
    assert values(found, "accuracy", "accuracy_parsed", "every_order", "consistency") == [0.5, 0.5, 0.0, 0.0]
    assert found.first.value == 1.0 - place
    assert found.position_bias.startswith(words)


def test_who_is_not_flagged(pair, judged):
    right = [judged(pair(str(i), better=i % 2), [i % 2, 1 - i % 2]) for i in range(8)]
    assert figures(right).accuracy.value == 1.0
    assert figures(right).position_bias == ""
    few = [judged(pair(str(i)), [0, 0]) for i in range(3)]
    assert figures(few).position_bias == ""
    # One order each, that prefers what comes first in 5 of 10.
    mixed = [judged(pair(str(i)), [i % 2]) for i in range(10)]
    assert figures(mixed).position_bias == ""
    assert figures(mixed).consistency.value is None


def test_the_first_of_four_is_preferred_a_quarter_of_the_time_by_chance(pair, judged):
    four = [judged(pair(str(i), better=i, answers="abcd"), [i % 4]) for i in range(4)] * 2
    found = figures([judged(pair(str(i), answers="abcd"), [i % 4]) for i in range(8)])
    assert figures(four).chance == found.chance == 0.25
    assert found.first.value == 0.25
    assert found.position_bias == ""


def test_units_are_right_as_a_whole(pair, judged):
    table = [
        judged(pair("a", unit="1"), [0, 1]),
        judged(pair("b", unit="1"), [0, 1]),
        judged(pair("c", unit="2"), [0, 1]),
        judged(pair("d", unit="2"), [0, None]),  # a failure makes its unit wrong
        judged(pair("e", unit="3"), [0, 0]),  # right in one order only
    ]
    assert figures(table).acc_plus.value == pytest.approx(1 / 3)
    assert figures(table).acc_plus.count == 3
    assert figures(table[:1]).acc_plus.value is None


def test_categories_count_each_once_in_the_macro_mean(pair, judged):
    table = [judged(pair(f"a{i}", category="many"), [0]) for i in range(9)]
    table += [judged(pair("b", category="one"), [1])]
    parts = by_category(table)
    assert [(name, part.accuracy.value) for name, part in parts.items()] == [("many", 1.0), ("one", 0.0)]
    assert macro(parts) == 0.5
    assert figures(table).accuracy.value == pytest.approx(0.9)
    assert macro({}) is None


def test_records_that_are_no_pairs_count_in_their_category_and_spoil_their_unit(pair, judged):
    table = [
        judged(pair("a", category="hep-cpp", unit="1"), [0, 1]),
        judged(pair("b", category="hep-go", unit="2"), [0, 1]),
        judged(pair("c", category="hep-go", unit="2"), [0, 1]),
    ]
    broken = [
        Broken("x:1", "no such file", "hep-cpp", "1"),
        Broken("x:2", "no such file", "hep-js", "3"),  # nothing of its category or unit is left
        Broken("x:3", "no label"),  # which says neither
    ]
    parts = by_category(table, broken)
    assert {name: part.accuracy.value for name, part in parts.items()} == {"hep-cpp": 0.5, "hep-go": 1.0, "hep-js": 0.0}
    assert macro(parts) == pytest.approx(0.5)
    assert figures(table, broken).acc_plus.value == pytest.approx(1 / 3)  # of 1, 2 and 3
    # One pair of unit 1 is left: that it had two shows in what is broken.
    assert figures(table[:1], broken[:1]).acc_plus.value == 0.0
    assert official(table, broken)["Reasoning"] == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    four = [judged(pair("d", category="Math"), [0, 1]), judged(pair("tied:1", category="Ties"), [0, 1])]
    spoilt = official(four, [Broken("x:1", "no such file", "Math"), Broken("x:2", "?", "Focus")])
    assert spoilt == {"Math": 0.5, "Focus": 0.0, "overall without Ties": 0.25}


def test_intervals_are_those_of_a_share_and_know_that_pairs_of_a_unit_are_alike(pair, judged):
    alone = figures([judged(pair(str(i)), [int(i % 4 == 0)]) for i in range(400)], draws=2000).accuracy
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (alone.high - alone.low) / 2 == pytest.approx(half, rel=0.1)
    units = figures([judged(pair(str(i), unit=f"u{i // 4}"), [int(i // 4 % 4 == 0)]) for i in range(400)], draws=2000)
    assert (units.accuracy.high - units.accuracy.low) / 2 == pytest.approx(2 * half, rel=0.1)


def test_nothing_at_all_has_no_figures():
    found = figures([])
    assert values(found, "accuracy", "accuracy_parsed", "first", "acc_plus") == [None] * 4
    assert (found.pairs, found.failure_rate, found.position_bias) == (0, 0.0, "")
    assert figures([], [Broken("x:1", "no label")]).accuracy.value == 0.0


def test_all_failed_is_wrong_over_all_and_nothing_over_parsed(pair, judged):
    found = figures([judged(pair(str(i)), [None, None]) for i in range(4)])
    assert values(found, "accuracy", "accuracy_parsed", "consistency", "first") == [0.0, None, None, None]


# -------------------------------------------------------------------- benchmarks


def scored(one, scores):
    given = tuple(Score(None, "failed", "invalid") if s is None else Score(s) for s in scores)
    if None in scores:
        return Judged(one, (Shown(None, Verdict(None, "failed")),), given)
    best = [float(s == max(scores)) for s in scores]
    return Judged(one, (Shown(None, Verdict(tuple(b / sum(best) for b in best))),), given)


def test_rewardbench_weighs_subsets_in_sections(pair, judged):
    table = [
        scored(pair("a", category="alpacaeval-easy"), [2, 1]),
        scored(pair("b", category="mt-bench-med"), [1, 2]),
        scored(pair("c", category="math-prm"), [1, 1]),  # equal scores lose
        scored(pair("d", category="hep-cpp"), [3, 1]),
        scored(pair("e", category="hep-cpp"), [1, 3]),
        scored(pair("f", category="hep-go"), [None, 1]),  # a failure loses
    ]
    found = official(table)
    assert found == pytest.approx(
        {
            "Chat": 100 / 140,
            "Reasoning": 0.5 * 164 / (984 + 164 + 164),
            "overall": (100 / 140 + 0.0625) / 2,
        }
    )
    compared = [judged(pair("a", category="math-prm"), ["tie", 1])]
    assert official(compared)["Reasoning"] == pytest.approx(0.75)


def test_the_weights_of_rewardbench():
    sums = {name: sum(some.values()) for name, some in WEIGHTS.items()}
    assert sums == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968}
    assert WEIGHTS["Reasoning"]["math-prm"] == sum(v for k, v in WEIGHTS["Reasoning"].items() if k[:3] == "hep")
    # As released, though there are 154 records of the first and 250 of the second.
    assert [WEIGHTS["Safety"][f"xstest-should-{name}"] for name in ("refuse", "respond")] == [250, 154]


def test_the_ties_of_rewardbench_2_by_hand(pair):
    two, one = (0.5, 0.5, 0), (1, 0, 0)
    table = [
        scored(pair("tied:1", shares=two, answers="abc", category="Ties"), [5, 3, 2]),  # spread 2, gap 1
        scored(pair("ref:1", shares=one, answers="abc", category="Ties"), [4, 1, 0]),  # gap 3
        scored(pair("tied:2", shares=two, answers="abc", category="Ties"), [5, 4.5, 1]),  # spread 0.5, gap 3.5
        scored(pair("ref:2", shares=one, answers="abc", category="Ties"), [1, 2, 0]),  # wrong: gap -1
    ]
    wanted = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0 + 0.01 * (math.tanh(1 / 2 - 1) + math.tanh(-1 / 0.5 - 1)) / 2
    assert ties_score(table) == pytest.approx(wanted)
    others = [scored(pair("m", answers="abcd", category="Math"), [2, 2, 1, 0])]
    assert official([*others, *table]) == pytest.approx({"Math": 0.5, "Ties": wanted, "overall": (0.5 + wanted) / 2})
    # A failed score loses where it is in: tied:1 is not right, and has no gap.
    failed = [scored(table[0].pair, [5, None, 2]), *table[1:]]
    assert ties_score(failed) == pytest.approx(0.3 * 0.5 + 0.3 * 0.5 + 0.2 * 0.5 + 0.01 * math.tanh(-3) / 2)


@pytest.mark.parametrize(("scores", "last"), [([3, 3, 1], 1.0), ([3, 3, 3], 0.0)])
def test_ties_without_a_spread_have_the_limit(pair, scores, last):
    tied = scored(pair("tied:1", shares=(0.5, 0.5, 0), answers="abc"), scores)
    ref = scored(pair("ref:1", shares=(1, 0, 0), answers="abc"), scores if last == 0 else [9, 1, 1])
    right = float(last)
    assert ties_score([tied, ref]) == pytest.approx((0.3 + 0.3 + 0.2 + 0.2) * right + 0.01 * last)


def test_ties_without_scores_are_said_to_be_missing(pair, judged):
    table = [judged(pair("tied:1", category="Ties"), [0]), judged(pair("m", category="Math"), [0])]
    assert official(table) == {"Math": 1.0, "overall without Ties": 1.0}
    with pytest.raises(ValueError, match="neither ref:N nor tied:N"):
        ties_score([scored(pair("7"), [1, 2])])


def test_a_category_of_somebody_else_that_is_called_ties_is_no_rewardbench_2(pair):
    assert official([scored(pair("7", category="Ties"), [1, 2]), scored(pair("8", category="Math"), [1, 2])]) == {}


def test_other_categories_have_no_scores_of_their_own(pair, judged):
    assert official([judged(pair("a", category="safety"), [0])]) == {}
    assert official([judged(pair("a"), [0])]) == {}


def test_a_ranking_by_hand():
    found = ranking([1, 2, 3, 4], [4, 3, 1, 2])
    assert found.kendall == pytest.approx(4 / 6)  # one of six pairs is turned round
    assert found.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert (found.top, found.bottom) == (1.0, 0.0)
    assert ranking([3, 1, 2], [0.1, 0.9, 0.4]).kendall == pytest.approx(1.0)
    flat = ranking([1, 2, 3], [5, 5, 5])
    assert (flat.kendall, flat.spearman, flat.top) == (0.0, 0.0, pytest.approx(1 / 3))
    with pytest.raises(ValueError, match="two or more"):
        ranking([1], [2])


def test_ranked_candidates_are_measured_by_their_order(pair):
    four = (3 / 6, 2 / 6, 1 / 6, 0)  # the wins of a ranking
    table = [
        scored(pair("a", shares=four, answers="wxyz"), [4, 3, 1, 2]),
        scored(pair("b", shares=four, answers="wxyz"), [1, 2, 3, 4]),
        scored(pair("c", shares=four, answers="wxyz"), [1, None, 3, 4]),
    ]
    # What failed ranks nothing: it is no reason to leave it out of a mean.
    wanted = {"Kendall tau": (4 / 6 - 1) / 3, "Spearman rho": (0.8 - 1) / 3, "best on top": 1 / 3, "worst last": 0.0}
    assert official(table) == pytest.approx(wanted)
    assert figures(table).accuracy.value == pytest.approx(1 / 3)


def test_equal_scores_rank_nothing_and_stay_in_the_mean(pair):
    four = (3 / 6, 2 / 6, 1 / 6, 0)
    table = [scored(pair(name, shares=four, answers="wxyz"), s) for name, s in (("a", [4, 3, 2, 1]), ("b", [5] * 4))]
    wanted = {"Kendall tau": 0.5, "Spearman rho": 0.5, "best on top": (1 + 1 / 4) / 2, "worst last": (1 + 1 / 4) / 2}
    assert official(table) == pytest.approx(wanted)


# -------------------------------------------------------------------- calibration


def test_reliability_by_hand(pair):
    def sure(name, first, better):
        return Judged(pair(name, better=better), (Shown((0, 1), Verdict((first, 1 - first))),))

    table = [sure("a", 0.52, 0), sure("b", 0.54, 1), sure("c", 0.12, 1), sure("d", 0.88, 1), sure("e", 1.0, 0)]
    found = reliability(table, bins=5)  # 0.5, 0.6, 0.7, 0.8, 0.9, 1.0
    # The middle ones are 0.88 sure: c of its second, rightly, d of its first, wrongly.
    assert [(b.confidence, b.accuracy, b.count) for b in found.bins] == [
        (pytest.approx(0.53), 0.5, 2),
        (pytest.approx(0.88), 0.5, 2),
        (1.0, 1.0, 1),
    ]
    assert found.error == pytest.approx((2 * 0.03 + 2 * 0.38 + 0) / 5)


def test_a_judge_that_is_always_sure_has_no_curve(pair, judged):
    assert reliability([judged(pair(str(i)), [0, None, "tie"]) for i in range(4)]) is None


def test_a_calibrated_judge_has_a_small_error(pair):
    random = np.random.default_rng(0)
    table = []
    for i in range(4000):
        p = float(random.uniform(0, 1))
        table.append(Judged(pair(str(i), better=int(random.random() > p)), (Shown((0, 1), Verdict((p, 1 - p))),)))
    assert reliability(table).error < 0.03
