import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrl.rewarding import LoadedReward, score_groups, win_rate
from mmrl.types import Group, Prompt, Sample


def make(artifacts):
    prompt = Prompt("p", "text")
    return Group(prompt, 0, [Sample(prompt, i, a) for i, a in enumerate(artifacts)])


def rates(judge, artifacts, **options):
    return [score.value for score in win_rate(judge, **options)(make(artifacts))]


def larger(a, b):
    return 0.5 if a.artifact == b.artifact else float(a.artifact > b.artifact)


@pytest.mark.parametrize("both_orders", [True, False])
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


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.7, 1.0])
def test_a_judge_of_positions_favours_nobody(p, hard):
    assert rates(lambda a, b: p, [1, 2, 3], hard=hard) == pytest.approx([0.5] * 3)
    if p == 1.0:
        assert rates(lambda a, b: p, [1, 2, 3], both_orders=False) == pytest.approx([1.0, 0.5, 0.0])


def test_probabilities_are_kept_soft_or_made_hard():
    # 0.8 said of (1, 0) and 0.4 of (0, 1): sample 1 wins with (0.8 + 0.6) / 2.
    judge = {(1, 0): 0.8, (0, 1): 0.4}
    assert rates(lambda a, b: judge[a.index, b.index], [0, 0]) == pytest.approx([0.3, 0.7])
    assert rates(lambda a, b: judge[a.index, b.index], [0, 0], hard=True) == [0.0, 1.0]


@pytest.mark.parametrize("failure", ["raises", float("nan"), 1.5, None])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
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
