"""One question, one answer: what most systems train."""

from __future__ import annotations

from pydantic import Field

from mmrl.environments.base import Context, Episode, Reply
from mmrl.environments.opening import opening
from mmrl.environments.pictures import scaled, whole
from mmrl.media import Size, View
from mmrl.strict import Strict


class SingleTurnOptions(Strict):
    system: str | None = Field(None, description="Text of the system message, behind the record's own.")
    ask: str | None = Field(None, description="Said behind the question, such as the form that the answer is to have.")
    scale: float = Field(1.0, gt=0, le=1, description="Sides of pictures are shown at this share of theirs.")
    max_side: int | None = Field(None, ge=1, description="Longest side that is shown, in pixels; null: no bound.")


class SingleTurn:
    """The record's messages with all of its pictures, in order; after the first answer it is over."""

    Options = SingleTurnOptions
    answers_cut = False

    def __init__(self, options: SingleTurnOptions | None = None) -> None:
        self.options = options or SingleTurnOptions()

    def open(self, episode: Episode) -> Context:
        """Raises ValueError where the record's marks and pictures differ in number."""
        messages = opening(episode.prompt, len(episode.sizes), self.options.system)
        if self.options.ask:
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n{self.options.ask}"}
        return Context(messages, [self._view(i, size) for i, size in enumerate(episode.sizes)])

    def respond(self, episode: Episode) -> Reply | None:
        return None

    def _view(self, picture: int, size: Size) -> View:
        scale, most = self.options.scale, self.options.max_side
        if most is not None:
            scale = min(scale, most / max(size))
        return whole(picture, size, scaled(size, scale))
