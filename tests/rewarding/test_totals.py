"""What weighted scores come to: one sum, one rule for who has one, and monitors that decide nothing."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrl.rewarding import invalid_share, known_share, monitor_invalid, total
from mmrl.types import Group, Prompt, Sample, Score

PROMPT = Prompt("p", "text")
OK, NA, BAD = Score(2.0), Score(None, "not applicable", "na"), Score.invalid("broken")


def sample(**scores: Score) -> Sample:
    return Sample(PROMPT, 0, "a", scores=scores)


def group(*samples: Sample) -> Group:
    return Group(PROMPT, 0, list(samples))


@pytest.mark.parametrize(
    ("scores", "weights", "value"),
    [
        ({"a": OK}, {"a": 1.0}, 2.0),
        ({"a": OK, "b": Score(5.0)}, {"a": 0.5, "b": -1.0}, -4.0),
        ({"a": OK, "b": NA}, {"a": 0.5, "b": 1.0}, 1.0),  # the others count
        ({"a": NA}, {"a": 1.0}, None),  # nothing says anything of it: that is not 0
        ({"a": OK, "b": BAD}, {"a": 1.0, "b": 1.0}, None),
        ({"a": OK, "b": BAD}, {"a": 1.0, "b": -1.0}, None),
        ({"a": OK, "b": BAD}, {"a": 1.0, "b": 0.0}, 2.0),  # a monitor decides nothing:
        ({"a": NA, "b": OK}, {"a": 1.0, "b": 0.0}, None),  # neither that there is a reward, nor that there is none
        ({"a": OK}, {"a": 0.0}, None),
        ({"a": OK, "kl": BAD}, {"a": 1.0}, 2.0),  # what no weight names is not asked
        ({"a": OK}, {}, None),
        ({"a": OK}, {"a": math.nan}, None),
        ({"a": OK}, {"a": math.inf}, None),
        ({"a": Score(1e308)}, {"a": 100.0}, None),
    ],
)
def test_the_total_of_a_sample(scores, weights, value):
    assert total(sample(**scores), weights) == value
    assert known_share([group(sample(**scores))], weights) == (int(value is not None), 1)


def test_a_score_that_was_never_made_is_an_error_and_not_a_0():
    with pytest.raises(ValueError, match="sample 0 of prompt 'p' has no score 'b'; it has a"):
        total(sample(a=OK), {"a": 1.0, "b": 1.0})


SCORES = st.sampled_from([OK, NA, BAD, Score(-1.5)])


@given(
    st.lists(st.fixed_dictionaries({"a": SCORES, "b": SCORES, "m": SCORES, "n": SCORES}), max_size=5),
    st.floats(0.1, 3),
    st.floats(-3, -0.1),
)
def test_monitors_change_nothing_and_are_counted_apart(rows, up, down):
    both = {"a": up, "b": down, "m": 0.0, "n": -0.0}
    with_monitors, without = ([group(*(sample(**row) for row in rows))], {"a": up, "b": down})
    bare = [group(*(sample(a=row["a"], b=row["b"]) for row in rows))]
    assert known_share(with_monitors, both) == known_share(bare, without)
    assert invalid_share(with_monitors, both) == invalid_share(bare, without)
    assert [total(s, both) for s in with_monitors[0].samples] == [total(s, without) for s in bare[0].samples]
    assert monitor_invalid(with_monitors, both) == {name: sum(r[name] is BAD for r in rows) for name in "mn"}


def test_each_sample_is_known_or_not_over_all_kinds_of_two_scores():
    """Independently: no weighted one is invalid, and at least one is a number."""
    pairs = list(itertools.product([OK, NA, BAD], repeat=2))
    groups = [group(*(sample(a=x, b=y) for x, y in pairs)), group()]
    # ok+ok, ok+na, na+ok of nine; five of nine have an invalid one; na+na is neither.
    assert known_share(groups, {"a": 1.0, "b": 1.0}) == (3, 9)
    assert invalid_share(groups, {"a": 1.0, "b": 1.0}) == pytest.approx(5 / 9)
    assert invalid_share(groups, {"a": 1.0, "b": 0.0}) == pytest.approx(3 / 9)
    assert monitor_invalid(groups, {"a": 1.0, "b": 0.0}) == {"b": 3}
    assert known_share([], {"a": 1.0}) == (0, 0)
    assert invalid_share([], {"a": 1.0}) == 0.0
