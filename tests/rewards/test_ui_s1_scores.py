"""Scores that are read from what an environment wrote: steps on a screen, and the guessing game."""

from __future__ import annotations

import pytest
from every import every

from mmrl.rewarding import load_reward
from mmrl.types import Group, Prompt, Sample

# (episode, step, score, match): right, right, type only; right, patched, right; wrong at once.
ROWS = [
    *((0, 0, 1.0, 1), (0, 1, 0.9, 1), (0, 2, 0.55, 0)),
    *((1, 0, 1.0, 1), (1, 1, 0.19, 0), (1, 2, 1.0, 1)),
    (2, 0, 0.1, 0),
]


def group(rows=ROWS):
    prompt = Prompt("q1", "q1")
    infos = [{"episode": e, "step": t, "step_reward": r, "match": m, "steps": 4} for e, t, r, m in rows]
    return Group(prompt, 0, [Sample(prompt, i, "", info=info) for i, info in enumerate(infos)])


def values(name, samples, **options):
    return [score.value for score in load_reward(name, options).call(samples)]


def test_steps_and_matches_are_what_the_environment_says():
    assert values("ui_s1.step", group().samples) == [r for _, _, r, _ in ROWS]
    assert values("ui_s1.match", group().samples) == [m for _, _, _, m in ROWS]


def test_progress_is_the_share_of_the_experts_steps():
    assert values("ui_s1.progress", group()) == [0.5] * 3 + [0.5] * 3 + [0.0]


def test_the_return_of_the_first_step_by_hand():
    """1 + 0.5 * 0.9, and nothing of the wrong third; 1 alone; 0.1."""
    got = values("ui_s1.future", group())
    assert got == [pytest.approx(1.45), None, None, 1.0, None, None, 0.1]
    assert values("ui_s1.future", group(), gamma=1.0)[0] == pytest.approx(1.9)


def test_the_order_of_rows_does_not_matter():
    assert values("ui_s1.future", group(ROWS[::-1])) == values("ui_s1.future", group())[::-1]


@every("name", ["ui_s1.step", "ui_s1.match", "ui_s1.progress", "ui_s1.future", "guess.found"])
def test_samples_of_no_such_environment_are_not_scored(name):
    reward, alone = load_reward(name), [Sample(Prompt("q", "q"), 0, "")]
    (score,) = reward.call(Group(alone[0].prompt, 0, alone) if reward.group else alone)
    assert (score.status, "comes from the environment" in score.reason) == ("na", True)


@every("name", ["ui_s1.progress", "ui_s1.future"])
def test_steps_of_no_known_episode_are_invalid(name):
    unknown = group()
    del unknown.samples[4].info["episode"]
    scores = load_reward(name).call(unknown)
    assert (scores[4].status, "`episode`" in scores[4].reason) == ("invalid", True)
    assert [score.value for score in scores[:3]] == values(name, group())[:3]


@every(("found", "rounds", "value"), [(1, 1, 1.0), (1, 3, 0.81), (0, 8, 0.0)])
def test_an_early_guess_is_worth_more(found, rounds, value):
    sample = Sample(Prompt("q", "q"), 0, "", info={"found": found, "rounds": rounds})
    assert values("guess.found", [sample]) == [pytest.approx(value)]


@every(("secret", "fits"), [(5, True), (10, True), (11, False), ("5", False), (None, False)])
def test_games_are_checked_before_training(secret, fits):
    check = load_reward("guess.found").check_prompt
    assert (check(Prompt("q", "q", {"low": 1, "high": 10, "secret": secret})) is None) == fits
