import math
import warnings
from itertools import pairwise

import pytest
from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.rewarding import LoadedReward, score_groups, win_rate
from mmrl.rewarding.pair_counts import pair_counts
from mmrl.rewarding.strength import bradley_terry
from mmrl.types import Group, Prompt, Sample


def make(artifacts):
    prompt = Prompt("p", "text")
    return Group(prompt, 0, [Sample(prompt, i, a) for i, a in enumerate(artifacts)])


def rates(judge, artifacts, **options):
    return [score.value for score in win_rate(judge, **options)(make(artifacts))]


def larger(a, b):
    return 0.5 if a.artifact == b.artifact else float(a.artifact > b.artifact)


@every("both_orders", [True, False])
def test_a_transitive_judge_gives_the_rank(both_orders):
    assert rates(larger, [30, 10, 40, 20], both_orders=both_orders) == pytest.approx([2 / 3, 0, 1, 1 / 3])


def test_ties_are_halves():
    # 1 against 1: 0.5; against 2: 0. The 2 beats both.
    assert rates(larger, [1, 1, 2]) == pytest.approx([0.25, 0.25, 1.0])


@given(
    st.integers(2, 7).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=n, max_size=n)
    ),
    st.booleans(),
    st.booleans(),
)
def test_the_rates_of_a_group_sum_to_half_its_size(p, both_orders, hard):
    got = rates(lambda a, b: p[a.index][b.index], list(range(len(p))), both_orders=both_orders, hard=hard)
    assert sum(got) == pytest.approx(len(p) / 2)
    assert all(0 <= rate <= 1 for rate in got)


@every("hard", [True, False])
@every("p", [0.0, 0.1, 0.7, 1.0])
def test_a_judge_of_positions_favours_nobody(p, hard):
    assert rates(lambda a, b: p, [1, 2, 3], hard=hard) == pytest.approx([0.5] * 3)


@every("schedule", ["round_robin", "regular", "anchors"])
@every("count", range(2, 10))
def test_in_one_order_each_is_first_as_often_as_second(schedule, count):
    """And whoever is first once more is drawn, so that it is not always the same sample."""
    anchors = {"anchors": lambda group: [Sample(group.prompt, -1 - k, 0) for k in range(count)]}
    options = anchors if schedule == "anchors" else {}
    seen = []
    for seed in range(8):
        asked = []

        def judge(a, b, asked=asked):
            asked.append((a.index, b.index))
            return 1.0  # always the first

        win_rate(judge, schedule=schedule, both_orders=False, seed=seed, **options)(make([0] * count))
        ahead = [sum(a == i for a, _ in asked) - sum(b == i for _, b in asked) for i in range(count)]
        assert all(abs(lead) <= 1 for lead in ahead)
        assert schedule == "regular" or len({frozenset(pair) for pair in asked}) == len(asked)
        if schedule == "round_robin":
            assert len(asked) == count * (count - 1) // 2
        seen.append(tuple(ahead))
    if schedule == "round_robin" and count % 2 == 0:
        assert len(set(seen)) > 1


def test_probabilities_are_kept_soft_or_made_hard():
    # 0.8 said of (1, 0) and 0.4 of (0, 1): sample 1 wins with (0.8 + 0.6) / 2.
    judge = {(1, 0): 0.8, (0, 1): 0.4}
    assert rates(lambda a, b: judge[a.index, b.index], [0, 0]) == pytest.approx([0.3, 0.7])
    assert rates(lambda a, b: judge[a.index, b.index], [0, 0], hard=True) == [0.0, 1.0]


@every("failure", ["raises", float("nan"), 1.5, None])
@every("order", [(0, 1), (1, 0)])
def test_a_failed_call_masks_its_pair_in_both_orders(failure, order):
    def judge(a, b):
        if (a.index, b.index) == order:
            if failure == "raises":
                raise TimeoutError("no answer")
            return failure
        return larger(a, b)

    scores = win_rate(judge)(make([1, 2, 3]))
    # Without the pair (0, 1): 0 lost to 2; 1 lost to 2; 2 beat both.
    assert [s.value for s in scores] == [0.0, 0.0, 1.0]
    assert [(s.details["pairs"], s.details["failed"]) for s in scores] == [(1, 1), (1, 1), (2, 0)]


def test_a_sample_without_a_judged_pair_is_invalid_not_zero():
    def judge(a, b):
        if 0 in (a.index, b.index):
            raise TimeoutError("no answer")
        return larger(a, b)

    first, *others = win_rate(judge)(make([1, 2, 3]))
    assert (first.status, first.value) == ("invalid", None)
    assert "no answer" in first.reason
    assert [s.value for s in others] == [0.0, 1.0]


def test_every_pair_is_asked_in_both_orders_and_threads_change_nothing():
    asked = []

    def judge(a, b):
        asked.append((a.index, b.index))
        return (a.artifact + 1) / (a.artifact + b.artifact + 2)

    alone = rates(judge, [3, 1, 2])
    assert sorted(asked) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert rates(judge, [3, 1, 2], workers=4) == alone


def test_it_runs_as_a_group_reward_and_a_group_of_one_is_not_applicable():
    call = win_rate(larger)
    reward = LoadedReward("duel", call, call.scores_groups)
    groups = [make([1, 2]), make([9])]
    score_groups(groups, [reward])
    assert [s.scores["duel"].value for s in groups[0].samples] == [0.0, 1.0]
    assert groups[1].samples[0].scores["duel"].status == "na"


# -------------------------------------------------------------------- who meets whom, and strengths


def test_the_rows_of_a_group_are_its_table_of_wins():
    def judge(a, b):
        if {a.index, b.index} == {0, 3}:
            raise TimeoutError("no answer")
        return 1.0 if (a.index, b.index) in ((1, 2), (2, 1)) else larger(a, b)  # of 1 and 2, the first that is shown

    scores = win_rate(judge)(make([1, 2, 3, 4]))
    assert [s.details["won"] for s in scores] == [
        [None, 0.0, 0.0, None],
        [1.0, None, 0.5, 0.0],
        [1.0, 0.5, None, 0.0],
        [None, 1.0, 1.0, None],
    ]
    assert [s.details["agreed"] for s in scores] == [2, 2, 2, 2]
    assert [s.details["pairs"] for s in scores] == [2, 3, 3, 2]
    assert "agreed" not in win_rate(judge, both_orders=False)(make([1, 2, 3, 4]))[0].details


def test_a_regular_schedule_asks_each_as_often_and_differs_from_group_to_group():
    asked = []

    def judge(a, b):
        asked.append((a.index, b.index))
        return larger(a, b)

    rate = win_rate(judge, schedule="regular", neighbours=2, both_orders=False)
    rounds = []
    for name in ("p", "q", "p"):
        asked.clear()
        prompt = Prompt(name, "text")
        scores = rate(Group(prompt, 0, [Sample(prompt, i, i) for i in range(6)]))
        assert [s.details["pairs"] for s in scores] == [2] * 6
        rounds.append(sorted(asked))
    assert len(rounds[0]) == 6
    assert rounds[0] == rounds[2] != rounds[1]


def test_anchors_are_met_by_all_and_get_no_score():
    prompt = Prompt("p", "text", {"known": [10, 30]})
    group = Group(prompt, 0, [Sample(prompt, i, a) for i, a in enumerate([5, 20, 30])])

    def known(group):
        return [Sample(group.prompt, -1 - k, a) for k, a in enumerate(group.prompt.record["known"])]

    scores = win_rate(larger, schedule="anchors", anchors=known)(group)
    assert [s.value for s in scores] == [0.0, 0.5, 0.75]
    assert [s.details["won"] for s in scores] == [[0.0, 0.0], [1.0, 0.0], [1.0, 0.5]]
    alone = Group(prompt, 0, group.samples[:1])
    assert win_rate(larger, schedule="anchors", anchors=known)(alone)[0].value == 0.0
    strengths = win_rate(larger, schedule="anchors", anchors=known, score="bradley_terry", prior=1e-3)(group)
    assert strengths[0].value < 0 < strengths[2].value
    assert strengths[1].value == pytest.approx(0.0, abs=0.01)  # one win, one loss: as strong as the mean of the two
    fit = bradley_terry(
        [[0, 0, 0, 0, 0], [0, 0, 0, 2, 0], [0, 0, 0, 2, 1], [2, 0, 0, 0, 0], [2, 2, 1, 0, 0]], prior=1e-3, zero=[3, 4]
    )
    assert [s.value for s in strengths] == pytest.approx(fit.values[:3], abs=1e-6)
    assert [s.details["low"] for s in strengths] == pytest.approx(fit.low[:3], rel=1e-4)
    none = win_rate(larger, schedule="anchors", anchors=lambda group: [])(group)
    assert {s.status for s in none} == {"invalid"}


def test_strengths_are_those_of_the_table_of_both_orders():
    p = [[0.5, 0.9, 0.6], [0.2, 0.5, 0.8], [0.3, 0.1, 0.5]]
    scores = win_rate(lambda a, b: p[a.index][b.index], score="bradley_terry")(make([0, 0, 0]))
    wins = [[0, 0.9 + 0.8, 0.6 + 0.7], [0.2 + 0.1, 0, 0.8 + 0.9], [0.3 + 0.4, 0.1 + 0.2, 0]]
    fit = bradley_terry(wins)
    assert [s.value for s in scores] == pytest.approx(fit.values, abs=1e-6)
    assert [s.details["low"] for s in scores] == pytest.approx(fit.low, abs=1e-6)
    assert [s.details["win_rate"] for s in scores] == pytest.approx([(1.7 + 1.3) / 4, (0.3 + 1.7) / 4, (0.7 + 0.3) / 4])


def test_strengths_allow_for_whom_a_sample_met():
    # A ring of six: 5 and 0 meet neighbours that are far, the middle ones neighbours that are near.
    def near(a, b):
        return 1 / (1 + 2.0 ** (b.artifact - a.artifact))

    scores = win_rate(near, schedule="regular", neighbours=2, score="bradley_terry", prior=1e-6)(make(list(range(6))))
    assert [b.value - a.value for a, b in pairwise(scores)] == pytest.approx([math.log(2)] * 5, abs=1e-3)


def test_a_sample_that_failed_pairs_cut_off_has_no_strength():
    def judge(a, b):
        if (a.index > 2) != (b.index > 2):
            raise TimeoutError("no answer")
        return larger(a, b)

    scores = win_rate(judge, score="bradley_terry")(make([1, 2, 3, 4, 5]))
    assert [s.status for s in scores] == ["ok", "ok", "ok", "invalid", "invalid"]
    assert sum(s.value for s in scores[:3]) == pytest.approx(0.0, abs=1e-6)
    assert "no common scale" in scores[3].reason


@every(
    ("options", "said"),
    [
        ({"schedule": "all"}, "expected one of"),
        ({"score": "elo"}, "expected one of"),
        ({"schedule": "anchors"}, "go together"),
        ({"anchors": lambda group: []}, "go together"),
        ({"schedule": "regular", "neighbours": 1}, "2 or more"),
        ({"score": "bradley_terry", "prior": 0.0}, "above 0"),
    ],
)
def test_options_without_a_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        win_rate(larger, **options)


def test_a_judge_of_many_pairs_is_asked_once_a_group_and_its_reasons_mask_pairs():
    class Together:
        calls = 0

        def judge_pairs(self, pairs):
            self.calls += 1
            return ["no idea" if {a.index, b.index} == {0, 1} else larger(a, b) for a, b in pairs]

    judge = Together()
    scores = win_rate(judge)(make([1, 2, 3]))
    assert judge.calls == 1
    assert [s.value for s in scores] == [0.0, 0.0, 1.0]
    assert scores[0].details["first_failure"] == "no idea"
    for wrong in ([], [2.0] * 6):
        judge.judge_pairs = lambda pairs, wrong=wrong: wrong
        if wrong:
            assert {s.status for s in win_rate(judge)(make([1, 2, 3]))} == {"invalid"}
        else:
            with pytest.raises(ValueError, match="0 answers for 6 pairs"):
                win_rate(judge)(make([1, 2, 3]))


# -------------------------------------------------------------------- ties, members that are lost, favourite places


@pytest.mark.parametrize("hard", [False, True])
def test_a_pair_within_the_margin_is_a_tie(hard):
    """0.8 said of (1, 0) and 0.4 of (0, 1) is 0.7 for sample 1: a tie from a margin of 0.2 on."""
    judge = {(1, 0): 0.8, (0, 1): 0.4}
    won = {0.1: 1.0 if hard else 0.7, 0.19: 1.0 if hard else 0.7, 0.2: 0.5, 0.4: 0.5}
    for margin, expected in won.items():
        got = rates(lambda a, b: judge[a.index, b.index], [0, 0], margin=margin, hard=hard)
        assert got == pytest.approx([1 - expected, expected])


def test_a_group_that_hardly_differs_is_levelled():
    """Rates of 0.4, 0.5 and 0.6 are 0.2 apart: levelled from there on, and the scores of their own are told."""
    judge = {(0, 1): 0.45, (0, 2): 0.35, (1, 2): 0.45}
    full = judge | {(j, i): 1 - p for (i, j), p in judge.items()}
    group = make([0] * 3)
    scores = {s: win_rate(lambda a, b: full[a.index, b.index], min_spread=s)(group) for s in (0.19, 0.2)}
    assert [s.value for s in scores[0.19]] == pytest.approx([0.4, 0.5, 0.6])
    assert [s.value for s in scores[0.2]] == [0.5] * 3
    assert [s.details["apart"] for s in scores[0.2]] == pytest.approx([0.4, 0.5, 0.6])
    assert "apart" not in scores[0.19][0].details


@pytest.mark.parametrize("score", ["win_rate", "bradley_terry"])
@pytest.mark.parametrize("lost", [{0}, {4}, {1, 3}, {0, 1, 4}, {0, 1, 2}])
def test_a_group_that_lost_members_has_the_scores_of_those_that_are_left(lost, score):
    """Members whose every call fails, and members that were never there, are the same to the others."""

    def judge(a, b):
        if {a.artifact, b.artifact} & lost:
            raise TimeoutError("no answer")
        return 1 / (1 + 1.7 ** ((b.artifact - a.artifact) * (1 + a.artifact * b.artifact % 3)))

    found = win_rate(judge, score=score)(make(list(range(5))))
    left = [i for i in range(5) if i not in lost]
    alone = [s.value for s in win_rate(judge, score=score)(make(left))]
    assert [found[i].value for i in left] == pytest.approx(alone, abs=1e-6)
    assert sum(alone) == pytest.approx(len(left) / 2 if score == "win_rate" else 0.0, abs=1e-6)
    assert all(found[i].status == "invalid" for i in lost)


@pytest.mark.parametrize(("p", "place"), [(1.0, "100% to what is shown first"), (0.1, "90% to what is shown second")])
@pytest.mark.parametrize("both_orders", [True, False])
def test_a_judge_that_goes_by_the_place_is_warned_of_once_in_a_hundred_verdicts(p, place, both_orders):
    rate = win_rate(lambda a, b: p, both_orders=both_orders)
    group = make(list(range(8)))  # 56 verdicts in both orders, 28 in one
    calls = 56 if both_orders else 28
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(99 // calls):
            scores = rate(group)
    with pytest.warns(UserWarning, match=place):
        rate(group)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rate(group)
    assert [s.details["first"] for s in scores] == pytest.approx([p] * 8)


def test_a_judge_that_is_sure_and_right_goes_by_no_place():
    rate = win_rate(larger)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert [s.details["first"] for s in rate(make(list(range(8))))] == [0.5] * 8


def test_what_comparisons_came_to_is_counted_by_pair():
    """Of three samples, the pair (0, 1) failed; both orders agree on (1, 2) and not on (0, 2)."""

    def judge(a, b):
        if {a.index, b.index} == {0, 1}:
            raise TimeoutError("no answer")
        return 1.0 if {a.index, b.index} == {0, 2} else larger(a, b)

    reward = LoadedReward("duel", win_rate(judge), group=True)
    other = LoadedReward("point", lambda samples: [1.0] * len(samples))
    groups = [make([1, 2, 3])]
    score_groups(groups, [reward, other])
    judged, failed, doubled, agreed, first = pair_counts(groups, "duel")
    assert (judged, failed, doubled, agreed) == (4, 2, 4, 2)  # two samples a pair
    assert first == pytest.approx(2 * (1.0 + 0.5))
    assert pair_counts(groups, "point") == [0.0] * 5
    alone = [make([1, 2])]
    score_groups(alone, [reward])
    assert pair_counts(alone, "duel")[:3] == [0, 2, 0]  # invalid samples, whose failures count
