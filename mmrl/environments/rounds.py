"""Conversations in rounds: a function of what was said gives the next message, up to a number of turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field, model_validator

from mmrl.core.schedule import turns
from mmrl.environments.base import Context, Episode, Reply
from mmrl.environments.find import find
from mmrl.environments.opening import opening
from mmrl.environments.parsing import plain
from mmrl.environments.pictures import whole
from mmrl.strict import Strict

# What is said to the policy's last turn, which it may quote; None ends the conversation. It may write into
# episode.info and memory.
Feedback = Callable[[Episode], str | None]
FEEDBACK = {"guess": "mmrl.environments.guess:hint"}


class RoundsOptions(Strict):
    feedback: str = Field(description="guess, or your own function of an Episode as path/file.py:function.")
    system: str | None = Field(None, description="Text of the system message, behind the record's own.")
    max_turns: int = Field(8, ge=1, description="Turns of the policy; in evaluation this one, schedule or not.")
    rounds: list[int] | None = Field(
        None,
        description="ScalingInter: the largest number of turns in each phase of training, such as [6, 13, 20].",
    )
    every: int = Field(100, ge=1, description="ScalingInter: training steps of a phase.")

    @model_validator(mode="after")
    def _turns_are_counts(self) -> RoundsOptions:
        if self.rounds is not None and (not self.rounds or min(self.rounds) < 1):
            raise ValueError(f"rounds={self.rounds}: give at least one number, each 1 or more")
        return self


class Rounds:
    """Messages from a feedback function until it has none, or until the turns of the training step are spent.

    info: `rounds`, turns that the policy had; `limit`, turns that it could have had; what the function writes.
    """

    Options = RoundsOptions
    answers_cut = False

    def __init__(self, options: RoundsOptions) -> None:
        self.options = options
        self.feedback: Feedback = find(options.feedback, FEEDBACK, "feedback")

    def open(self, episode: Episode) -> Context:
        """Raises ValueError where the record's marks and pictures differ in number."""
        views = [whole(i, size, size) for i, size in enumerate(episode.sizes)]
        episode.info["limit"] = self._limit(episode.step, self.options.rounds)
        return Context(opening(episode.prompt, len(views), self.options.system), views)

    def respond(self, episode: Episode) -> Reply | None:
        text = self.feedback(episode)
        episode.info["rounds"] = len(episode.said)
        if text is None or len(episode.said) >= episode.info["limit"]:
            return None
        return Reply(plain(text))

    def _limit(self, step: int | None, rounds: Sequence[int] | None) -> int:
        if rounds is None or step is None:
            return self.options.max_turns
        return turns(step, rounds=rounds, every=self.options.every)
