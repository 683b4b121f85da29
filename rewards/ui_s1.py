"""UI-S1's scores of steps on a screen, which the environment ui_s1 has worked out, and of the episodes they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmrl.rewarding import group_reward
from mmrl.types import Group, Sample, Score


def step(samples: list[Sample]) -> list[Score]:
    """The score of each step, 0.1 for its form and 0.9 for its action, from the environment: `step_reward` of info."""
    return [_from_info(sample, "step_reward") for sample in samples]


def match(samples: list[Sample]) -> list[Score]:
    """1 where the step is the expert's, else 0; for evaluation."""
    return [_from_info(sample, "match") for sample in samples]


@group_reward
def progress(group: Group) -> list[Score]:
    """Share of the expert's steps that the sample's episode got right; the same for all steps of an episode."""
    scores = [_unknown(sample) for sample in group.samples]
    for rows in _episodes(group).values():
        share = sum(group.samples[i].info["match"] for i in rows) / group.samples[rows[0]].info["steps"]
        for i in rows:
            scores[i] = Score.of(share)
    return scores


@group_reward
def future(group: Group, gamma: float = 0.5, correct: float = 0.9) -> list[Score]:
    """The return of each episode's first step, r_0 + gamma r_1 + ... up to the first wrong one; no score elsewhere.

    The release keeps the groups in which it varies enough: give it weight 0 and name it in the filter, {name: spread,
    above: 0.3, ddof: 0, score: ui_s1.future}. As in the release a wrong step counts nothing for the one before it.
    gamma: the discount. correct: smallest score of a right step.
    """
    scores = [_unknown(sample) for sample in group.samples]
    for rows in _episodes(group).values():
        rewards = [group.samples[i].info["step_reward"] for i in rows]
        value = rewards[0]
        for t, reward in enumerate(rewards[1:], 1):
            if min(rewards[t - 1], reward) < correct:
                break
            value += gamma**t * reward
        for i in rows:
            scores[i] = Score(None, "not an episode's first step", "na")
        scores[rows[0]] = Score.of(value)
    return scores


def _episodes(group: Group) -> Mapping[int, Sequence[int]]:
    """Places of each episode's samples, in the order of their steps."""
    found: dict[int, list[int]] = {}
    for place, sample in enumerate(group.samples):
        if "step_reward" in sample.info and "episode" in sample.info:
            found.setdefault(sample.info["episode"], []).append(place)
    return {e: sorted(places, key=lambda i: group.samples[i].info["step"]) for e, places in found.items()}


def _from_info(sample: Sample, name: str) -> Score:
    if name in sample.info:
        return Score.of(sample.info[name])
    return Score(None, f"the sample's info has no `{name}`; it comes from the environment ui_s1", "na")


def _unknown(sample: Sample) -> Score:
    """The score of a sample of no episode."""
    if "step_reward" in sample.info:
        return Score.invalid("the sample's info has no `episode`, which says what steps belong together")
    return _from_info(sample, "step_reward")
