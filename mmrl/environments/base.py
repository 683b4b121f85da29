"""The environment interface: what a policy is shown first, and what it is shown after each of its turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mmrl.media import Media, Perceived, Place, Size, pictures_of
from mmrl.types import Prompt, Turn


@dataclass(frozen=True)
class Context:
    """The messages that a row of the policy begins with.

    messages: {"role", "content"} with a text as content, in which each IMAGE and AUDIO (mmrl.media) is the next of
    `views`. Those of sounds may be left out altogether: then the record's sounds are heard in their order.
    """

    messages: Sequence[Mapping[str, str]]
    views: Sequence[Place] = ()


@dataclass(frozen=True)
class Reply:
    """What follows a turn of the policy: a text with pictures, after which it speaks again.

    keep: how many characters of the policy's turn stay; what is behind them is forgotten and not trained. None is all.
    restart: the policy goes on in a new row, which is a sample of its own, from this context instead of from all
    that was said (a Markov state, a replayed step); `text` and `views` are then not used.
    """

    text: str = ""
    views: Sequence[Place] = ()
    role: str = "user"
    keep: int | None = None
    restart: Context | None = None


@dataclass
class Episode:
    """A conversation so far. An environment reads it, and writes into `info` and `memory` only.

    sizes: of the prompt's pictures. turns: all so far, the opening included; the last is the policy's.
    media: what was shown and heard, in order. finished: whether the policy ended its last turn itself; otherwise a
    budget did. step: the training step, None in evaluation. seed: of the conversation's sampling, index: its number
    among those of its prompt; None where nothing is sampled (an answer that is given, a prompt that is looked at).
    info: what becomes of Sample.info. memory: the environment's own.
    """

    prompt: Prompt
    sizes: Sequence[Size] = ()
    turns: list[Turn] = field(default_factory=list)
    media: list[Perceived] = field(default_factory=list)
    finished: bool = True
    step: int | None = None
    seed: int | None = None
    index: int | None = None
    info: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> list[Media]:
        """What was shown, in order."""
        return pictures_of(self.media)

    @property
    def said(self) -> list[str]:
        """The policy's turns."""
        return [turn.text for turn in self.turns if turn.trained]


class Environment(Protocol):
    """How a conversation goes. It holds no state of its own: everything about a conversation is in its Episode."""

    def open(self, episode: Episode) -> Context:
        """What the policy is shown first (`episode` has no turns yet)."""

    def respond(self, episode: Episode) -> Reply | None:
        """What it is shown after its last turn; None ends the conversation.

        The driver ends it without asking where a turn did not end itself and `answers_cut` is not set, and where the
        budgets of turns, pictures or tokens are spent.
        """

    # Whether `respond` is asked about turns that a token budget cut, too.
    answers_cut: bool = False

    # Names in `info` of what `open` draws from the episode's seed and index, where it does: then each conversation of a
    # prompt begins in a row of its own. `open` reads columns of these names first, so that a record with them opens as
    # that sample did. An environment may leave it out.
    draws: Sequence[str] = ()


def drawn_by(environment: Environment | None) -> Sequence[str]:
    """`environment.draws`; () where there is no environment, or it says nothing of that."""
    return getattr(environment, "draws", ())
