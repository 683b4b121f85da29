"""Whatever a reward returns: one Score for each sample, and a number only where it gave a finite real one."""

from __future__ import annotations

import itertools
import math
from collections import UserDict, deque
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.rewarding import LoadedReward, load_reward, score_groups
from mmrl.types import Group, Prompt, Sample, Score

HUGE = 10**400  # no float is so large


class Odd:
    """Every way in which an object can fail to be a number."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __float__(self) -> float:
        raise self.error("no")

    def __repr__(self) -> str:
        raise ValueError("no words either")


def scored(returned, count: int = 2) -> list[Score]:
    prompt = Prompt("p", "text")
    group = Group(prompt, 0, [Sample(prompt, i, "a") for i in range(count)])
    score_groups([group], [LoadedReward("r", lambda samples: returned, source="r.py")])
    return [sample.scores["r"] for sample in group.samples]


NUMBERS = [
    (1, 1.0),
    (True, 1.0),
    (False, 0.0),
    (-0.5, -0.5),
    (Fraction(1, 4), 0.25),
    (Decimal("0.125"), 0.125),
    (np.float16(0.5), 0.5),
    (np.longdouble(0.5), 0.5),
    (np.int64(-3), -3.0),
    (np.bool_(True), 1.0),
    (np.array(2.0), 2.0),
    (torch.tensor(2), 2.0),
    (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    (torch.tensor(0.5, requires_grad=True), 0.5),
    (10**300, 1e300),
]
NOT_NUMBERS = [
    HUGE,
    -HUGE,
    10**5000,  # Python refuses to write it out
    Fraction(HUGE),
    Decimal("1e400"),
    Decimal("NaN"),
    Decimal("sNaN"),
    math.nan,
    math.inf,
    -math.inf,
    np.float32("nan"),
    "1",
    "",
    np.str_("1"),
    b"1",
    bytearray(b"1"),
    1j,
    1 + 0j,
    np.complex64(1),
    np.array(1j),
    torch.tensor(1j),
    [1.0],
    (1.0,),
    [[1.0]],
    {"score": 1.0},
    {1.0},
    np.array([1.0]),
    np.array([[1.0]]),
    np.array("1"),
    torch.tensor([1.0]),
    torch.tensor(1.0, device="meta"),
    range(1),
    object(),
    float,
    len,
    Odd(ValueError),
    Odd(OverflowError),
    Odd(SystemExit),
    Odd(KeyboardInterrupt),
    Score(math.nan),
    Score(HUGE),
    Score("1"),
    Score(None),
    Score(Score(1.0)),
    Score(1.0, status="fine"),
    Score(1.0, details=[1]),
    Score.invalid("the judge was silent"),
]


def names(values) -> list[str]:
    return [f"{i}-{type(value).__name__}" for i, value in enumerate(values)]


@every(("value", "number"), NUMBERS, ids=names(v for v, _ in NUMBERS))
def test_real_finite_numbers_are_scores(value, number):
    for score in (scored([value, None])[0], scored([Score(value), None])[0]):
        assert (score.status, score.value, type(score.value)) == ("ok", number, float)


@every("value", NOT_NUMBERS, ids=names(NOT_NUMBERS))
def test_everything_else_is_invalid_with_a_short_reason_and_touches_no_other_sample(value):
    bad, good = scored([value, 1.0])
    assert (bad.status, bad.value) == ("invalid", None)
    assert bad.reason.startswith("r: ")
    assert len(bad.reason) < 200
    assert good == Score(1.0)


@every(
    "make",
    [
        lambda: [1.0, 2.0],
        lambda: (1.0, 2.0),
        lambda: deque([1.0, 2.0]),
        lambda: iter([1.0, 2.0]),
        lambda: (x for x in (1.0, 2.0)),
        lambda: {"a": 1.0, "b": 2.0}.values(),
        lambda: np.array([1.0, 2.0]),
        lambda: np.array([1, 2], dtype=object),
        lambda: torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        lambda: torch.tensor([1.0, 2.0], requires_grad=True),
        lambda: [torch.tensor(1.0), np.float32(2.0)],
        lambda: range(1, 3),
    ],
)
def test_whatever_has_an_order_may_hold_the_scores(make):
    assert [score.value for score in scored(make())] == [1.0, 2.0]


@every(
    ("returned", "told"),
    [
        ({"a": 1.0, "b": 2.0}, "returned dict with the keys 'a', 'b'"),
        ({0: 1.0, 1: 2.0}, "returned dict with the keys 0, 1"),
        (UserDict({"a": 1.0, "b": 2.0}), "returned UserDict with the keys 'a', 'b'"),
        ({1.0, 2.0}, "returned set, which has no order"),
        (frozenset({1.0, 2.0}), "returned frozenset, which has no order"),
        ({0: "a", 1: "b"}.keys(), "which has no order"),
        ("12", "returned the text '12'"),
        (b"12", "returned bytes b'12'"),
        (bytearray(b"12"), "returned bytearray"),
        (memoryview(b"12"), "returned memoryview"),
        (None, "returned None"),
        (1.0, "returned float 1.0"),
        (1j, "returned complex 1j"),
        (Score(1.0), "returned Score"),
        (float, "returned type"),
        (np.array(1.0), "returned ndarray of the shape ()"),
        (np.ones((2, 1)), "returned ndarray of the shape (2, 1)"),
        (np.ones(3), "returned ndarray of the shape (3,)"),
        (torch.ones(1, 2), "returned Tensor of the shape (1, 2)"),
        (torch.ones(2, device="meta"), "meta"),
        ([], "returned 0 scores"),
        ([1.0], "returned 1 score"),
        ([[1.0, 2.0]], "returned 1 score"),
        ([1.0] * 3, "returned 3 scores"),
        (iter([1.0]), "returned 1 score"),
        (itertools.repeat(1.0), "returned over 2 scores"),
    ],
)
def test_what_is_no_list_of_scores_is_invalid_for_the_whole_call(returned, told):
    for score in scored(returned):
        assert (score.status, score.value) == ("invalid", None)
        assert told in score.reason
        assert told == "meta" or "expected 2 scores" in score.reason
        assert len(score.reason) < 300


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("takes", ["samples", "completions", "completions, **columns"])
@pytest.mark.parametrize("returned", ["{'a': 1.0, 'b': 2.0}", "'12'", "{1.0, 2.0}", "itertools.repeat(1.0)", "10**400"])
def test_every_way_of_calling_reads_by_the_same_rules(plugin, takes, returned, timeout):
    path = plugin("mine", f"import itertools\ndef f({takes}):\n    return {returned}\n")
    prompt = Prompt("p", "text")
    group = Group(prompt, 0, [Sample(prompt, i, "a") for i in range(2)])
    score_groups([group], [load_reward(f"{path}:f", timeout=timeout)])
    for sample in group.samples:
        score = sample.scores["mine.f"]
        assert (score.status, score.value) == ("invalid", None)
        assert "expected 2 scores" in score.reason


def test_a_coroutine_that_nobody_awaits_is_told():
    async def later():
        return [1.0, 2.0]

    returned = later()
    assert "returned coroutine" in scored(returned)[0].reason
    returned.close()


VALUES = [*(value for value, _ in NUMBERS), *NOT_NUMBERS, None]
LEAVES = st.integers(0, len(VALUES) - 1).map(lambda place: VALUES[place])  # sampled_from would write them out
HASHABLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.complex_numbers()
RETURNED = st.recursive(
    LEAVES | HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(iter),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.sets(HASHABLE, max_size=3),
        st.builds(Score, inner, st.text(max_size=3), st.sampled_from(["ok", "na", "invalid", "", None])),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(RETURNED, st.integers(0, 3))
def test_whatever_is_returned_gives_one_score_a_sample_and_ok_is_a_finite_float(returned, count):
    scores = scored(returned, count)
    assert len(scores) == count
    for score in scores:
        assert isinstance(score, Score)
        assert score.status in ("ok", "na", "invalid")
        if score.ok:
            assert type(score.value) is float
            assert math.isfinite(score.value)
        else:
            assert score.value is None
            assert score.reason
    if isinstance(returned, dict | set | str | bytes):
        assert {score.status for score in scores} <= {"invalid"}


# -------------------------------------------------------------------- rewards with a will of their own


def test_a_reward_that_returns_the_same_list_each_time_keeps_no_hold_of_earlier_scores():
    kept: list = []

    def same(samples):
        kept[:] = [Score(sample.artifact, details=shared) for sample in samples]
        shared["last"] = samples[0].artifact
        return kept

    shared: dict = {}
    groups = []
    for name in ("a", "b"):
        prompt = Prompt(name, "text")
        groups.append(Group(prompt, 0, [Sample(prompt, 0, float(len(groups)))]))
    score_groups(groups, [LoadedReward("r", same)])
    kept.clear()
    assert [g.samples[0].scores["r"].value for g in groups] == [0.0, 1.0]
    assert [g.samples[0].scores["r"].details for g in groups] == [{"last": 0.0}, {"last": 1.0}]


def _vandal(group):
    for sample in group.samples:
        sample.artifact, sample.reward, sample.advantage = "changed", 9.0, 9.0
        sample.scores["other"] = Score(9.0)
        sample.scores.pop("first", None)
        sample.prompt = Prompt("another", "another")
    group.samples.reverse()
    group.samples.pop()
    group.index = 9
    return [1.0, 2.0]


def test_what_a_reward_changes_of_its_samples_reaches_nobody_else():
    prompt = Prompt("p", "text")
    group = Group(prompt, 0, [Sample(prompt, i, text) for i, text in enumerate("ab")])
    seen = []

    def honest(samples):
        seen.append([sample.artifact for sample in samples])
        return [float(sample.index) for sample in samples]

    rewards = [
        LoadedReward("first", honest),
        LoadedReward("vandal", _vandal, group=True),
        LoadedReward("list", lambda samples: samples.clear() or [1.0, 2.0]),
        LoadedReward("last", honest),
    ]
    score_groups([group], rewards)
    assert seen == [["a", "b"], ["a", "b"]]
    assert group.index == 0
    for i, sample in enumerate(group.samples):
        assert (sample.index, sample.artifact, sample.reward, sample.prompt) == (i, "ab"[i], None, prompt)
        values = {name: score.value for name, score in sample.scores.items()}
        assert values == {"first": i, "vandal": i + 1, "list": i + 1, "last": i}
