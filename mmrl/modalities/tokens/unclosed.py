"""What an environment reads of a policy whose turns begin within a thought that the chat template opened."""

from __future__ import annotations

from dataclasses import replace

from mmrl.environments.base import Context, Environment, Episode, Reply, drawn_by
from mmrl.types import Turn


class Unclosed:
    """The environment, told of thoughts that the template opens and a turn does not close: they begin with their tag,
    as rewards read them, so that nothing in them is an answer or a call.

    tag, close: of the thoughts.
    """

    def __init__(self, environment: Environment, tag: str, close: str) -> None:
        self.environment, self.tag, self.close = environment, tag, close
        self.answers_cut, self.draws = environment.answers_cut, drawn_by(environment)

    def open(self, episode: Episode) -> Context:
        return self.environment.open(episode)

    def respond(self, episode: Episode) -> Reply | None:
        """The turns of `episode` itself stay as they were said, and `keep` counts their characters."""
        turns = [self._seen(turn) for turn in episode.turns]
        reply = self.environment.respond(replace(episode, turns=turns))
        if reply is None or reply.keep is None or turns[-1] is episode.turns[-1]:
            return reply
        return replace(reply, keep=max(0, reply.keep - len(self.tag)))

    def _seen(self, turn: Turn) -> Turn:
        return replace(turn, text=self.tag + turn.text) if turn.trained and self.close not in turn.text else turn
