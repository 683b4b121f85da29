"""Rewards made of rewards: another one per task, one only where others are met, one stage after the other.

Each part is written as in a config, {name, options}, or as a name. Its failures stay failures, and one that is not
needed is not run: a judge is asked only about what has earned it. Weights that change with the step, and sums that
need no such care, are the shapers `staged`, `gated` and `gated_sum` of the core.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from threading import Lock
from typing import Any

from mmrl.rewarding import group_reward, load_reward, score_groups
from mmrl.types import Group, Prompt, Score

Spec = str | Mapping[str, Any]


@group_reward
class dispatch:
    """The reward that a column of the record names: Mixed-R1's tasks, VLM-R1's `accu_reward_method`.

    by: the column. rewards: its value -> the reward. default: the reward for other values and for records without
    the column; without a default, an unknown value is invalid and a record without the column not applicable.
    """

    def __init__(self, by: str, rewards: Mapping[str, Spec], default: Spec | None = None) -> None:
        if not rewards:
            raise ValueError("rewards is empty; name one for each value of the column")
        self.by = by
        self.rewards = {str(task): Part(spec) for task, spec in rewards.items()}
        self.default = None if default is None else Part(default)
        self._parts = [*self.rewards.values(), *([self.default] if self.default else [])]
        self.groups_at_once = at_once(self._parts)

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: so are those inside."""
        as_monitors(self._parts)

    def start(self) -> None:
        """Called before the first rollout: so are those inside."""
        start_parts(self._parts)

    def __call__(self, group: Group) -> list[Score]:
        part = self._of(group.prompt)
        if part is None:
            status = "na" if group.prompt.record.get(self.by) is None else "invalid"
            return [Score(None, self.check_prompt(group.prompt) or "", status)] * len(group.samples)
        return [replace(s, details={"reward": part.name, **s.details}) for s in part.scores(group)]

    def check_prompt(self, prompt: Prompt) -> str | None:
        part, task = self._of(prompt), prompt.record.get(self.by)
        if part is not None:
            return part.problem(prompt)
        if task is None:
            return f"prompt {prompt.id!r} lacks `{self.by}`, which names its reward"
        return f"prompt {prompt.id!r}: `{self.by}` {task!r} names no reward; there are {', '.join(self.rewards)}"

    def _of(self, prompt: Prompt) -> Part | None:
        return self.rewards.get(str(prompt.record.get(self.by)), self.default)


@group_reward
class gated:
    """`then` where every reward of `condition` is `threshold` or more, `otherwise` elsewhere, without running `then`.

    TimeMaster's judged extension, only where class and format are right; R1-Reward's consistency, only where the
    result is; MMAR's rubric, only behind a right answer; CAD-RL's sum of geometry and judgement, only of what ran.
    then: a reward, or several, whose sum it is, weighted by `weights` (1 each). A condition that is invalid or not
    applicable makes the sample so, and so does an invalid part of the sum; one that does not apply counts nothing.
    What stops a sample tells why: its details are the condition's.
    """

    def __init__(
        self,
        condition: Spec | Sequence[Spec],
        then: Spec | Sequence[Spec],
        threshold: float = 1.0,
        otherwise: float = 0.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        specs = [condition] if isinstance(condition, str | Mapping) else list(condition)
        if not specs:
            raise ValueError("condition is empty, and would let everything through; name one reward or more")
        if isinstance(then, str | Mapping):
            if weights is not None:
                raise ValueError(f"weights={list(weights)} go with a list as `then`; leave them out")
        else:  # all of them, whatever each is worth
            then = {
                "name": "compose.staged",
                "options": {"stages": list(then), "threshold": -math.inf, "weights": weights},
            }
        self.condition, self.then = [Part(spec) for spec in specs], Part(then)
        self.threshold, self.otherwise = threshold, otherwise
        self.groups_at_once = at_once([*self.condition, self.then])

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: so are those inside."""
        as_monitors([*self.condition, self.then])

    def start(self) -> None:
        """Called before the first rollout: so are those inside."""
        start_parts([*self.condition, self.then])

    def __call__(self, group: Group) -> list[Score]:
        scores: dict[int, Score] = {}
        left = list(range(len(group.samples)))
        for part in self.condition:
            for place, score in zip(left, part.scores(group, left)):
                if score.value is None:
                    scores[place] = score
                elif score.value < self.threshold:
                    told = {**score.details, "stopped": part.name}  # why it did not pass: a status, say
                    scores[place] = replace(score, value=self.otherwise, details=told)
            left = [place for place in left if place not in scores]
        scores |= zip(left, self.then.scores(group, left))
        return [scores[place] for place in range(len(group.samples))]

    def check_prompt(self, prompt: Prompt) -> str | None:
        return _first_problem([*self.condition, self.then], prompt)


@group_reward
class staged:
    """The weighted sum of the stages that a sample has reached: one is reached where all before it were passed.

    SATORI's caption -> bbox -> answer, with a gate; its released code adds the three without one (threshold 0).
    stages: rewards, in order. weights: one each, 1 by default. threshold: a stage is passed with so much or more; one
    number, or one for each stage. An invalid stage makes the sample invalid; one that does not apply counts nothing
    and is passed, and where none applies the sample has no score.
    """

    def __init__(
        self,
        stages: Sequence[Spec],
        threshold: float | Sequence[float] = 0.5,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.stages = [Part(spec) for spec in stages]
        count = len(self.stages)
        self.thresholds = [threshold] * count if isinstance(threshold, int | float) else list(threshold)
        self.weights = [1.0] * count if weights is None else list(weights)
        if not count or len(self.thresholds) != count or len(self.weights) != count:
            raise ValueError(
                f"{count} stages, {len(self.thresholds)} thresholds and {len(self.weights)} weights: need one of each"
            )
        self.groups_at_once = at_once(self.stages)

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: so are those inside."""
        as_monitors(self.stages)

    def start(self) -> None:
        """Called before the first rollout: so are those inside."""
        start_parts(self.stages)

    def __call__(self, group: Group) -> list[Score]:
        everybody = range(len(group.samples))
        earned: list[dict[str, float]] = [{} for _ in everybody]
        told: list[dict[str, Any]] = [{} for _ in everybody]  # of one name, the first stage's
        totals, failed, left = [0.0] * len(everybody), {}, list(everybody)
        for number, (stage, threshold, weight) in enumerate(zip(self.stages, self.thresholds, self.weights), 1):
            passed = []
            for place, score in zip(left, stage.scores(group, left)):
                if score.status == "invalid":
                    failed[place] = score
                    continue
                if score.value is not None:
                    totals[place] += weight * score.value
                    earned[place][f"{number} {stage.name}"] = score.value
                    told[place] = {**score.details, **told[place]}
                if score.value is None or score.value >= threshold:
                    passed.append(place)
            left = passed
        return [failed.get(p) or _total(totals[p], earned[p], told[p]) for p in everybody]

    def check_prompt(self, prompt: Prompt) -> str | None:
        return _first_problem(self.stages, prompt)


# -------------------------------------------------------------------- parts


class Part:
    """A reward inside another one.

    spec: a name, or {name, options}. Raises RewardError as load_reward does, ValueError for another form.
    """

    def __init__(self, spec: Spec) -> None:
        if isinstance(spec, str):
            spec = {"name": spec}
        if not (isinstance(spec, Mapping) and isinstance(spec.get("name"), str) and set(spec) <= {"name", "options"}):
            raise ValueError(f"{spec!r}: expected the name of a reward, or a mapping with `name` and perhaps `options`")
        self.reward = load_reward(spec["name"], spec.get("options"))
        self.name = self.reward.name
        self._lock = Lock() if self.reward.at_once == 1 else nullcontext()

    def scores(self, group: Group, places: Sequence[int] | None = None) -> list[Score]:
        """The scores of the group's samples at these places (all), checked as any reward's are."""
        chosen = range(len(group.samples)) if places is None else places
        samples = [replace(group.samples[place], scores={}) for place in chosen]
        with self._lock:
            score_groups([Group(group.prompt, group.index, samples)], [self.reward])
        return [sample.scores[self.name] for sample in samples]

    def problem(self, prompt: Prompt) -> str | None:
        return self.reward.check_prompt(prompt) if self.reward.check_prompt else None


def at_once(parts: Iterable[Part]) -> int:
    """How many groups a reward of these parts may be called with at a time: a part that allows one waits its turn."""
    return max(part.reward.at_once for part in parts)


def as_monitors(parts: Iterable[Part]) -> None:
    """Tell these parts that they are of a monitor."""
    for part in parts:
        part.reward.as_monitor()


def start_parts(parts: Iterable[Part]) -> None:
    """Make ready what these parts run beside this process."""
    for part in parts:
        part.reward.start()


def _first_problem(parts: Iterable[Part], prompt: Prompt) -> str | None:
    return next((problem for part in parts if (problem := part.problem(prompt))), None)


def _total(total: float, earned: Mapping[str, float], told: Mapping[str, Any]) -> Score:
    if not earned:
        return Score(None, "no stage applies", "na")
    return Score.of(total, **{**told, **earned})
