"""Conversations without a model: what a policy says is given, a size stands for what a processor makes of a view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mmrl.environments.base import Context, Environment, Episode, Reply
from mmrl.media import IMAGE, Media, Size, View
from mmrl.types import Prompt, Sample, Turn


def multiple_of(cell: int) -> Callable[[Size], Size]:
    """A processor that rounds sides to whole cells, as those of Qwen do."""
    return lambda size: tuple(max(cell, round(side / cell) * cell) for side in size)


class Play:
    """A driver of one conversation: `say` is a turn of the policy and returns the reply.

    seen: what the processor makes of a view's size. A restart begins a new episode with the same memory, as drivers do.
    """

    def __init__(
        self,
        environment: Environment,
        text: str = "What is it?",
        sizes: Sequence[Size] = (),
        *,
        space: str = "seen",
        seen: Callable[[Size], Size] = lambda size: size,
        step: int | None = None,
        **record: Any,
    ) -> None:
        self.environment, self.space, self.seen = environment, space, seen
        self.episode = Episode(Prompt("q1", text, record), tuple(sizes), step=step)
        self.closed: list[Episode] = []
        self.context = environment.open(self.episode)
        self._begin(self.context)

    def say(self, text: str, finished: bool = True) -> Reply | None:
        """The reply to a turn; what it shows is put into the episode, a turn is cut where it says."""
        self.episode.turns.append(Turn("assistant", text, trained=True))
        self.episode.finished = finished
        reply = self.environment.respond(self.episode) if finished or self.environment.answers_cut else None
        if reply is None or reply.restart is not None:
            self.closed.append(self.episode)
        if reply is None:
            return None
        if reply.restart is not None:
            before = self.episode
            self.episode = Episode(before.prompt, before.sizes, step=before.step, memory=before.memory)
            self._begin(reply.restart)
            return reply
        if reply.keep is not None:
            self.episode.turns[-1] = Turn("assistant", text[: reply.keep], trained=True)
        self.episode.turns.append(Turn(reply.role, reply.text, self._shown(reply.text, reply.views)))
        return reply

    @property
    def info(self) -> dict[str, Any]:
        return self.episode.info

    def _begin(self, context: Context) -> None:
        marks = sum(message["content"].count(IMAGE) for message in context.messages)
        assert marks == len(context.views)
        views = iter(context.views)
        for message in context.messages:
            some = [next(views) for _ in range(message["content"].count(IMAGE))]
            shown = self._shown(message["content"], some)
            self.episode.turns.append(Turn(message["role"], message["content"], shown))

    def _shown(self, text: str, views: Sequence[View]) -> tuple[int, ...]:
        assert text.count(IMAGE) == len(views), "as many marks as views"
        first = len(self.episode.media)
        for view in views:
            original = self.episode.sizes[view.picture]
            left, top, right, bottom = view.crop or (0, 0, *original)
            size = view.size or (int(right - left), int(bottom - top))
            self.episode.media.append(Media(view, original, self.seen(size), self.space))
        return tuple(range(first, len(self.episode.media)))


@pytest.fixture
def play() -> type[Play]:
    return Play


@pytest.fixture
def sample_of():
    """sample_of(info, **record) -> a Sample with that info"""

    def make(info: dict[str, Any], **record: Any) -> Sample:
        return Sample(Prompt("q1", "q1", record), 0, "", info=info)

    return make
