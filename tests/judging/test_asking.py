"""Orders, votes, baselines and words: what a judge is asked, and what is made of its answers."""

from __future__ import annotations

from collections import Counter

import pytest

from mmrl.judging.asking import ask, orders_of, shuffled
from mmrl.judging.base import Verdict
from mmrl.judging.baselines import BASELINES
from mmrl.judging.metrics import figures
from mmrl.judging.words import pictures_of, verdict_in, words_of
from mmrl.types import Candidate, Pair, Prompt, Score


class Knows:
    """Prefers the right candidate, by the data; `fails`: ids without a verdict."""

    identity = "knows"

    def __init__(self, fails=()):
        self.fails, self.asked = fails, []

    def compare(self, showings):
        self.asked += showings
        return [Verdict(None, "no idea") if s.pair.id in self.fails else Verdict(s.pair.shares) for s in showings]


class Scores:
    identity = "scores"

    def __init__(self, values):
        self.values = values

    def scores(self, items):
        return [self.values(candidate) for _, candidate in items]


# -------------------------------------------------------------------- orders and votes


def test_both_orders_of_two_and_an_order_with_its_reverse_of_four(pair):
    showings = Knows()
    list(ask(showings, [pair("a"), pair("b", answers="wxyz")]))
    orders = [s.order for s in showings.asked]
    assert sorted(orders[:2]) == [(0, 1), (1, 0)]
    assert orders[2] == orders[3][::-1] and sorted(orders[2]) == [0, 1, 2, 3]


@pytest.mark.parametrize("orders", ["both", "random"])
def test_the_better_one_stands_first_in_half_whatever_the_data_do(pair, orders):
    pairs = [pair(f"p{i}", better=0) for i in range(400)]
    firsts = Counter(some[0] for p in pairs for some in orders_of(p, orders, 0)[:1])
    assert 160 < firsts[0] < 240
    assert [orders_of(p, orders, 0) for p in pairs] == [orders_of(p, orders, 0) for p in pairs]
    assert [orders_of(p, orders, 0) for p in pairs] != [orders_of(p, orders, 1) for p in pairs]
    found = figures(list(ask(BASELINES["first"](), pairs, orders=orders)), draws=200)
    assert found.accuracy.value == (0.5 if orders == "both" else pytest.approx(0.5, abs=0.1))
    assert found.first.value == 1.0 and found.position_bias


@pytest.mark.parametrize("together", [1, 3, 64])
def test_answers_stay_with_their_pairs_however_many_are_asked_at_once(pair, together):
    pairs = [pair(str(i), better=i % 2) for i in range(7)]
    judged = list(ask(Knows(fails={"3"}), pairs, together=together))
    assert [one.pair.id for one in judged] == [str(i) for i in range(7)]
    assert [[s.verdict.ok for s in one.shown] for one in judged] == [[i != 3] * 2 for i in range(7)]
    assert figures(judged).accuracy.value == pytest.approx(6 / 7)


def test_pairs_are_asked_as_they_come(pair):
    taken = []

    def endless():
        number = 0
        while True:
            taken.append(number)
            yield pair(str(number))
            number += 1

    judged = ask(Knows(), endless(), together=4)
    next(judged)
    assert len(taken) == 4


def test_votes_have_seeds_of_their_own_and_the_majority_counts(pair):
    class Unsteady:
        identity = "unsteady"

        def compare(self, showings):
            self.seeds = [s.seed for s in showings]
            return [Verdict((1.0, 0.0) if s.seed % 3 else (0.0, 1.0)) for s in showings]

    judge = Unsteady()
    [one] = ask(judge, [pair("a")], votes=3, seed=2)
    assert judge.seeds == [6, 7, 8] * 2  # of another seed there are others
    assert [s.verdict.shares for s in one.shown] == [pytest.approx((2 / 3, 1 / 3))] * 2
    assert [len(s.votes) for s in one.shown] == [3, 3]
    even = figures(list(ask(judge, [pair("a")], votes=2, seed=0)))
    assert even.tied_votes == 2 and even.accuracy.value == 0.5


def test_scores_become_the_probability_of_bradley_terry(pair):
    [one] = ask(Scores(lambda c: Score({"yes": 1.5, "no": 0.5}[c.answer])), [pair("a")])
    [shown] = one.shown
    assert shown.order is None
    assert shown.verdict.shares == pytest.approx((1 / (1 + 2.718281828**-1.0), 1 / (1 + 2.718281828**1.0)))
    assert [score.value for score in one.scores] == [1.5, 0.5]
    assert figures([one]).first.value is None
    [equal] = ask(Scores(lambda c: Score(3e8)), [pair("a")])
    assert figures([equal]).tied == 1


def test_a_score_that_failed_is_a_pair_without_a_verdict(pair):
    judge = Scores(lambda c: Score.invalid("picture is missing") if c.answer == "no" else Score(1.0))
    [one] = ask(judge, [pair("a")])
    assert one.shown[0].verdict.reason == "candidate 1 has no score: picture is missing"
    assert figures([one]).accuracy.value == 0.0


@pytest.mark.parametrize(
    "shares", [(1.0,), (0.5, 0.5, 0.0), (0.9, 0.9), (float("nan"), 1.0), (-0.5, 1.5), (float("inf"), 0.0)]
)
def test_a_verdict_that_is_none_is_a_failure(pair, shares):
    class Wrong:
        identity = "wrong"

        def compare(self, showings):
            return [Verdict(shares) for _ in showings]

    [one] = ask(Wrong(), [pair("a")])
    assert all("expected as many, summing to 1" in s.verdict.reason for s in one.shown)


def test_what_makes_no_sense_is_refused(pair):
    class Short:
        identity = "short"

        def compare(self, showings):
            return []

    with pytest.raises(ValueError, match="0 verdicts for 2"):
        list(ask(Short(), [pair("a")]))
    with pytest.raises(ValueError, match="0 scores for 2"):
        list(ask(type("S", (), {"identity": "s", "scores": lambda self, items: []})(), [pair("a")]))
    with pytest.raises(ValueError, match="says the same each time"):
        list(ask(Scores(lambda c: Score(1.0)), [pair("a")], votes=3))
    for wrong in ({"orders": "given"}, {"votes": 0}):
        with pytest.raises(ValueError, match="expected"):
            list(ask(Knows(), [pair("a")], **wrong))


# -------------------------------------------------------------------- baselines


def test_baselines(pair):
    pairs = [pair(f"p{i}", answers=("longer words", "short"), better=i % 2) for i in range(200)]
    found = {name: figures(list(ask(kind(), pairs)), draws=100) for name, kind in BASELINES.items()}
    assert found["longest"].accuracy.value == 0.5
    assert 0.4 < found["random"].accuracy.value < 0.6
    assert 0.4 < found["random"].first.value < 0.6
    assert found["random"].position_bias == "" != found["first"].position_bias
    known = list(ask(Knows(), pairs))
    assert figures(known, draws=10).accuracy.value == 1.0
    assert 0.4 < figures(shuffled(known), draws=10).accuracy.value < 0.6
    assert [one.pair.shares for one in shuffled(known)] == [one.pair.shares for one in shuffled(known)]


# -------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "form", "count", "found"),
    [
        ("<think>1 is worse</think><answer>2</answer>", "answer", 2, 1),
        ("<think>so <answer>2</answer></think><answer>1</answer>", "answer", 2, 0),
        ("opened by the template</think><answer>Response 2</answer>", "answer", 2, 1),
        ("Answer 2 is better, I think", "sentence", 2, 1),
        ("I say: **Response 1 is the best**", "sentence", 2, 0),
        ("<think>Image 1 is better, no</think><answer>Image 2 is better</answer>", "sentence", 2, 1),
        ("Answer 1 is better. So: Answer 1 is better.", "sentence", 2, 0),
        ("My verdict: [[C]]", "letter", 4, 2),
        ("<answer>3</answer>", "answer", 2, "verdict 3 of 2"),
        ("2", "answer", 2, "no verdict"),
        ("<think>never ends <answer>1</answer>", "answer", 2, "no verdict"),
        ("", "sentence", 2, "nothing is said outside"),
        ("<think>Answer 1 is better", "sentence", 2, "nothing is said outside"),
        ("Answer 1 is better. Answer 2 is better.", "sentence", 2, "two minds"),
        ("Answer 0 is better", "sentence", 2, "verdict 0 of 2"),
        ("Answer 99999999999999999999 is better", "sentence", 2, "of 2 candidates"),
        ("<answer>1</answer>", "sentence", 2, "no verdict of the form 'sentence'"),
        ("[[E]]", "letter", 4, "verdict 5 of 4"),
    ],
)
def test_a_verdict_is_read_or_said_to_be_none(text, form, count, found):
    said = verdict_in(text, count, form)
    assert said == found if isinstance(found, int) else found in said


def test_words_and_pictures_of_candidates():
    assert words_of(Candidate("said")) == "said"
    talk = [{"role": "assistant", "content": "one"}, {"content": [{"type": "text", "text": "two"}, {"type": "image"}]}]
    assert words_of(Candidate(talk)) == "one\ntwo"
    prompt = Prompt("p", "?", {"images": ["q.png"]})
    one = Pair(prompt, (Candidate("", ("a.png",)), Candidate("", ("b.png", "c.png"))), (1.0, 0.0))
    assert pictures_of(one) == ["q.png", "a.png", "b.png", "c.png"]
