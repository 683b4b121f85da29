"""Rewards of pictures for films: each frame is scored by another reward, and the scores become one.

    rewards:
      - {name: frames.mean, options: {reward: pickscore.score, count: 4}}

The reward that scores is written as in a config, {name, options}, or as a name. The samples of a group are compared
frame by frame: a reward of pairs or groups sees the same frame of all of them. Which reduction is used is a choice of
the config and has no default: the mean may be raised by a few good frames, the least cannot, and the first or the last
alone says nothing of what is between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mmrl.media import Clip
from mmrl.rewarding import group_reward
from mmrl.types import Group, Prompt, Sample, Score

from .compose import Part, Spec


class _Framewise:
    """count: frames that are scored, evenly spread, the first and the last among them; None: all."""

    def __init__(self, reward: Spec, count: int | None = None) -> None:
        if count is not None and count < 2:
            raise ValueError(f"count={count} must be 2 or more; one frame is what frames.first and frames.last score")
        self.part, self.count = Part(reward), count
        if self.part.reward.reads != "artifact":
            raise ValueError(
                f"{self.part.name} reads {self.part.reward.reads}, and frames have none; name it by itself"
            )
        self.groups_at_once = self.part.reward.at_once

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: so is the one inside."""
        self.part.reward.as_monitor()

    def check_prompt(self, prompt: Prompt) -> str | None:
        return self.part.problem(prompt)

    def scores(self, group: Group, reduced: Callable[[Sequence[float]], float]) -> list[Score]:
        films = [place for place, sample in enumerate(group.samples) if isinstance(sample.artifact, Clip)]
        found: dict[int, list[tuple[int, Score]]] = {place: [] for place in films}
        frames = {place: self.chosen(len(group.samples[place].artifact)) for place in films}
        for turn in range(max(map(len, frames.values()), default=0)):
            there = [place for place in films if turn < len(frames[place])]
            shown = [_frame(group.samples[place], frames[place][turn]) for place in there]
            for place, score in zip(there, self.part.scores(replace(group, samples=shown))):
                found[place].append((frames[place][turn], score))
        return [
            self._joined(found[place], reduced)
            if place in found
            else Score.invalid(f"the sample is no film, but {type(sample.artifact).__name__}")
            for place, sample in enumerate(group.samples)
        ]

    def chosen(self, frames: int) -> list[int]:
        """Places of the frames that are scored, of so many."""
        if self.count is None or self.count >= frames:
            return list(range(frames))
        return [round(number * (frames - 1) / (self.count - 1)) for number in range(self.count)]

    def _joined(self, scores: Sequence[tuple[int, Score]], reduced: Callable[[Sequence[float]], float]) -> Score:
        """A frame without a score leaves the film without one; where none applies, the reward does not."""
        failed = next(((place, score) for place, score in scores if score.status == "invalid"), None)
        if failed is not None:
            return Score.invalid(f"frame {failed[0]}: {failed[1].reason}")
        values = {place: score.value for place, score in scores if score.value is not None}
        if not values:
            return scores[0][1]
        told: Mapping[str, float] = {str(place): value for place, value in values.items()}
        return Score.of(reduced(list(values.values())), reward=self.part.name, frames=told)


def _frame(sample: Sample, place: int) -> Sample:
    return replace(sample, artifact=sample.artifact.frames[place])


@group_reward
class mean(_Framewise):
    """The mean over frames."""

    def __call__(self, group: Group) -> list[Score]:
        return self.scores(group, lambda values: sum(values) / len(values))


@group_reward
class least(_Framewise):
    """The lowest of all frames: one that is spoilt spoils the film."""

    def __call__(self, group: Group) -> list[Score]:
        return self.scores(group, min)


@group_reward
class first(_Framewise):
    """The first frame alone."""

    def __init__(self, reward: Spec) -> None:
        super().__init__(reward)

    def chosen(self, frames: int) -> list[int]:
        return [0]

    def __call__(self, group: Group) -> list[Score]:
        return self.scores(group, min)


@group_reward
class last(_Framewise):
    """The last frame alone."""

    def __init__(self, reward: Spec) -> None:
        super().__init__(reward)

    def chosen(self, frames: int) -> list[int]:
        return [frames - 1]

    def __call__(self, group: Group) -> list[Score]:
        return self.scores(group, min)
