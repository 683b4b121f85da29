"""Curricula by pass rate: buckets, schedules over the steps, estimates that follow rollouts; all resume bit for bit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from answers import __file__ as answers
from answers import make
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.config import ConfigError, load
from mmrl.reporting.sample_records import read_step
from mmrl.training.rollouts.buckets import levels, picked, shares
from mmrl.training.rollouts.curriculum import Curriculum
from mmrl.training.rollouts.difficulty import CurriculumError
from mmrl.training.stopping import Stopped
from mmrl.types import Prompt

NAMES = [f"p{i}" for i in range(8)]
RATES = [0.25, 1.0, 0.5, 0.75, 0.125, 0.875, 0.375, 0.625]
EASY_FIRST = [1, 5, 3, 7, 2, 6, 0, 4]  # places of RATES from the highest to the lowest
HIGH = {"first": "high"}


def curriculum(**options) -> Curriculum:
    return Curriculum(NAMES, RATES, **{**HIGH, "steps": 8, **options})


# -------------------------------------------------------------------- levels and shares


@every(
    ("values", "buckets", "found"),
    [
        ([3, 1, 2, 1], None, [2, 0, 1, 0]),
        ([3, 1, 2, 1], 2, [1, 0, 1, 0]),
        ([1, 2, 3, 4, 5], 2, [0, 0, 0, 1, 1]),
        ([5, 5, 5, 1], 2, [0, 0, 0, 0]),  # equal ones stay together: one lower of four is in the first half
        ([1, 1, 1, 5], 2, [0, 0, 0, 1]),
        ([1, 1, 1, 5], 4, [0, 0, 0, 3]),  # two buckets are empty
        ([7], 3, [0]),
        ([-1.0, -0.5, -0.5, 0.0], 4, [0, 1, 1, 3]),
    ],
)
def test_levels_by_hand(values, buckets, found):
    assert levels(values, buckets) == found


@settings(deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.integers(1, 6))
def test_buckets_rise_with_the_numbers_and_begin_at_the_lowest(values, buckets):
    found = levels(values, buckets)
    assert min(found) == 0 and max(found) < buckets
    assert all(
        (a < b) <= (x <= y) and (a == b) <= (x == y) for a, x in zip(values, found) for b, y in zip(values, found)
    )
    if len(set(values)) == len(values):  # none is larger than another by more than one
        sizes = Counter(found)
        assert len(values) < buckets or max(sizes.values()) - min(sizes.values()) <= 1


@every(
    ("count", "done", "found"),
    [
        (2, 0.0, [2 / 3, 1 / 3]),
        (2, 1.0, [1 / 3, 2 / 3]),
        (4, 0.5, [0.25] * 4),
        (3, 0.25, [2.5 / 6, 2 / 6, 1.5 / 6]),
        (1, 0.3, [1.0]),
    ],
)
def test_shares_by_hand(count, done, found):
    assert shares(count, done) == pytest.approx(found)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0]), min_size=1, max_size=6).filter(any),
    st.floats(0, 1, exclude_max=True),
)
def test_what_has_no_weight_is_never_picked(weights, chance):
    place = picked(weights, chance)
    assert weights[place] > 0
    assert sum(weights[:place]) <= chance * sum(weights) + 1e-12


# -------------------------------------------------------------------- schedules


def test_sorted_is_sari_s_order_and_its_reverse_is_the_other_option():
    assert curriculum(order="sorted").order(0, 8, 0) == EASY_FIRST
    assert curriculum(order="sorted", first="low").order(0, 8, 0) == EASY_FIRST[::-1]
    halves = curriculum(order="sorted", buckets=2).order(0, 8, 0)
    assert (set(halves[:4]), set(halves[4:])) == (set(EASY_FIRST[:4]), set(EASY_FIRST[4:]))
    assert halves != EASY_FIRST  # inside a bucket they are shuffled


@pytest.mark.parametrize("order", ["staged", "mixed"])
def test_bucket_b_opens_when_b_of_b_parts_of_the_steps_are_done(order):
    """Four buckets of two over eight steps: one more every second step, whatever was answered."""
    made = curriculum(order=order, buckets=4, advance="evenly")
    for step in range(8):
        opened = step // 2
        expected = EASY_FIRST[: 2 * opened + 2] if order == "mixed" else EASY_FIRST[2 * opened : 2 * opened + 2]
        assert set(made.order(step, 16, 0)) == set(expected)
        for name in NAMES:
            made.record(name, 1.0)


@pytest.mark.parametrize("order", ["staged", "mixed"])
def test_a_bucket_without_prompts_does_not_bring_the_next_one_sooner(order):
    """Seven equal numbers are one bucket of four, the eighth is the last: that one opens after 3/4 of the steps."""
    made = Curriculum([f"p{i}" for i in range(8)], [0.0] * 7 + [1.0], order=order, buckets=4, advance="evenly", steps=8)
    asked = [made.order(step, 8, seed=0) for step in range(8)]
    assert [7 in some for some in asked] == [False] * 6 + [True] * 2
    assert order == "mixed" or set(asked[-1]) == {7}


def test_shifting_draws_levels_as_likely_as_it_says_and_each_prompt_of_a_level_in_turn():
    drawn = {}
    for step in (0, 4, 8):
        made = curriculum(order="shifting", buckets=2, steps=9)
        drawn[step] = made.order(step, 4000, 0)
        for half in (EASY_FIRST[:4], EASY_FIRST[4:]):
            turns = [i for i in drawn[step] if i in half]
            assert all(set(turns[k : k + 4]) == set(half) for k in range(0, len(turns) - 3, 4))
    easy = {step: sum(i in EASY_FIRST[:4] for i in found) / 4000 for step, found in drawn.items()}
    assert easy == {  # three standard deviations of 4000 draws are 0.024
        0: pytest.approx(2 / 3, abs=0.024),
        4: pytest.approx(1 / 2, abs=0.024),
        8: pytest.approx(1 / 3, abs=0.024),
    }


def test_shifting_passes_over_levels_that_are_empty_or_over():
    made = Curriculum(["a", "b", "c"], [1, 1, 5], order="shifting", buckets=3, retire_at=1.0, steps=4)
    assert set(made.order(0, 50, 0)) == {0, 1, 2}
    made.record("c", 1.0)
    assert set(made.order(1, 50, 0)) == {0, 1}


# -------------------------------------------------------------------- estimates


def test_an_estimate_follows_the_rollouts():
    made = curriculum(order="sorted", reestimate=0.5)
    made.order(0, 2, 0)
    made.record("p1", 0.0)  # 1.0 -> 0.5
    made.record("p1", 0.0)  # -> 0.25
    made.record("p4", 1.0)  # 0.125 -> 0.5625
    assert made.state()["estimates"] == {"p1": 0.25, "p4": 0.5625}
    assert made.order(0, 6, 0) == EASY_FIRST[2:]  # the pass that is on stays as it began
    second = made.order(1, 8, 0)
    assert second[:4] == [5, 3, 7, 4]
    assert set(second[-2:]) == {0, 1}  # both 0.25 now


@pytest.mark.parametrize("order", ["staged", "mixed"])
def test_estimates_move_prompts_between_buckets_at_the_next_step(order):
    made = curriculum(order=order, buckets=4, reestimate=1.0, advance="evenly")
    assert set(made.order(0, 8, 0)) == {1, 5}
    made.record("p1", 0.0)
    made.record("p4", 1.0)
    assert set(made.order(0, 8, 0)) == {4, 5}


def test_estimates_of_what_is_no_rate_are_refused():
    with pytest.raises(CurriculumError, match=r"reestimate needs pass rates.* prompt 'b' has 3"):
        Curriculum(["a", "b"], [0.5, 3.0], order="sorted", reestimate=0.5)


@every(
    ("section", "told"),
    [
        ({"order": "mixed", "column": "x", "reestimate": 0.5}, "needs `buckets:`"),
        ({"order": "shifting"}, "needs `column:`"),
        ({"order": "sorted", "column": "x", "buckets": 1}, "greater than or equal to 2"),
        ({"order": "mixed", "column": "x", "advance": "evenly", "window": 3}, "curriculum.window: has no effect"),
        ({"first": "high"}, "curriculum.first: has no effect"),
    ],
)
def test_what_does_not_fit_together_is_told(section, told):
    stage, modality = {"kind": "grpo", "steps": 1, "curriculum": section}, f"{answers}:Answers"
    with pytest.raises(ConfigError, match=told):
        load({"modality": modality, "data": {"prompts": "a.jsonl"}, "rewards": [{"name": "a.b"}], "stages": [stage]})


# -------------------------------------------------------------------- runs

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i % 3), {"prompt": "x", "pass_rate": rate}) for i, rate in enumerate(RATES)]
RATED = {"column": "pass_rate", "first": "high"}
SCHEDULES = {
    "sorted": {**RATED, "order": "sorted", "buckets": 2},
    "one bucket at a time": {**RATED, "order": "staged", "buckets": 4, "advance": "evenly"},
    "buckets that open": {**RATED, "order": "mixed", "buckets": 4, "advance": "evenly"},
    "shifting": {**RATED, "order": "shifting", "buckets": 4},
    **{
        f"{order}, estimated": {**RATED, "order": order, "buckets": 2, "reestimate": 0.5}
        for order in ("sorted", "staged", "mixed", "shifting")
    },
}


def trained(folder: Path, name: str, section: dict, **options):
    (folder / "score.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 4 for s in samples]\n")
    stage = {"kind": "grpo", "steps": 4, "groups": 3, "samples": 3, "staleness": 1, "optim": {"lr": 0.05}}
    values = {
        "out": str(folder),
        "name": name,
        "data": {"prompts": "given"},
        "rewards": [{"name": f"{folder / 'score.py'}:a"}],
        "stages": [{**stage, "curriculum": section}],
        "report": {"samples_every": 1, "groups": 3},
        "checkpoint": {"every": 1},
    }
    return make(values, PROMPTS, **options)


def asked(folder: Path) -> list[list[str]]:
    tags = sorted(place.name for place in (folder / "samples").glob("step_*"))
    return [[group.prompt.id for group in read_step(folder, tag)[0]] for tag in tags]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_that_stops_everywhere_asks_and_learns_as_one_that_never_does(tmp_path, schedule):
    straight = trained(tmp_path, "straight", SCHEDULES[schedule])
    straight.train()
    stops = 0
    while True:
        passed: list[str] = []

        def at(place: str, passed=passed) -> bool:
            passed.append(place)
            return place in ("rollout", "step") and len(passed) > 1

        resumed = trained(tmp_path, "cut", SCHEDULES[schedule], should_stop=at)
        try:
            resumed.train(resume=stops > 0)
            break
        except Stopped:
            stops += 1
            assert stops < 60
    assert stops >= 4
    assert asked(tmp_path / "cut") == asked(tmp_path / "straight")
    assert torch.equal(resumed.adapter.table, straight.adapter.table)
    states = [json.dumps(loop.stage.rollouts.state(), sort_keys=True) for loop in (straight, resumed)]
    assert states[0] == states[1]


@pytest.mark.parametrize("reward", [None, "right", "form"])
def test_what_is_right_is_what_one_reward_says_or_their_sum(tmp_path, reward):
    """2 for the answer and 1 for the form, as SARI has them: by the sum the form alone is a right answer."""
    (tmp_path / "score.py").write_text(
        "def right(samples):\n    return [float('a' in s.artifact) for s in samples]\n"
        "def form(samples):\n    return [float(s.artifact[:1] in ('a', 'b')) for s in samples]\n"
    )
    names = {"right": 2.0, "form": 1.0}
    values = {
        "out": str(tmp_path),
        "data": {"prompts": "given"},
        "rewards": [{"name": f"{tmp_path / 'score.py'}:{n}", "alias": n, "weight": w} for n, w in names.items()],
        "stages": [
            {
                "kind": "grpo",
                "steps": 1,
                "groups": 8,
                "samples": 6,
                "curriculum": {**RATED, "order": "sorted", "reestimate": 1.0, **({"reward": reward} if reward else {})},
            }
        ],
        "report": {"samples_every": 1, "groups": 8},
    }
    loop = make(values, PROMPTS)
    loop.train()
    groups, *_ = read_step(tmp_path / "run", "step_000001")

    def passed(sample) -> bool:
        scores = {name: sample.scores[name].value for name in names}
        return (sum(names[n] * v for n, v in scores.items()) if reward is None else scores[reward]) >= 0.5

    by_hand = {group.prompt.id: sum(map(passed, group.samples)) / len(group.samples) for group in groups}
    assert loop.stage.rollouts.state()["curriculum"]["estimates"] == by_hand
    assert len(by_hand) == 8 and 0 < sum(by_hand.values()) < 8


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ({"kind": "grpo", "curriculum": {"retire_at": 0.9, "reward": "b"}}, r"curriculum.reward: no reward 'b'.*is a"),
        ({"kind": "filter", "rule": "difficulty", "reward": "b"}, r"reward: no reward 'b' \(there is a\)"),
    ],
)
def test_a_reward_that_decides_has_to_be_there(tmp_path, stage, told):
    (tmp_path / "score.py").write_text("def a(samples):\n    return [1.0 for s in samples]\n")
    rewards = [{"name": f"{tmp_path / 'score.py'}:a", "alias": "a"}]
    values = {"out": str(tmp_path), "data": {"prompts": "given"}, "rewards": rewards, "stages": [{**stage, "steps": 1}]}
    with pytest.raises(ConfigError, match=told):
        make(values, PROMPTS).train()


def test_what_a_filter_measured_is_the_order_of_the_stage_behind_it(tmp_path):
    """From the policy's own pass rates, in one run, without those that are never right."""
    (tmp_path / "score.py").write_text("def a(samples):\n    return [float(s.artifact[:1] == 'a') for s in samples]\n")
    measure = {"kind": "filter", "name": "m", "rule": "difficulty", "steps": 2, "groups": 4, "low": 0.01, "high": 1}
    train = {
        "kind": "grpo",
        "steps": 2,
        "groups": 4,
        "samples": 2,
        "data_from": "m",
        "curriculum": {**RATED, "order": "sorted"},
    }
    values = {
        "out": str(tmp_path),
        "data": {"prompts": "given"},
        "rewards": [{"name": f"{tmp_path / 'score.py'}:a"}],
        "stages": [measure, train],
        "report": {"samples_every": 1, "groups": 4},
    }
    texts = [Prompt(p.id, p.text, {"prompt": p.text}) for p in PROMPTS]
    make(values, texts).train()
    lines = (tmp_path / "run/data/m.jsonl").read_text().splitlines()
    rates = {record["id"]: record["pass_rate"] for record in map(json.loads, lines)}
    first = [rates[id_] for step in asked(tmp_path / "run")[-2:] for id_ in step][: len(rates)]
    assert len(set(rates.values())) > 1 and first == sorted(rates.values(), reverse=True)
