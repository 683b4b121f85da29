"""Conversations: all that live are sampled together, turn by turn, and every row is kept as ids.

Nothing that the policy said is encoded again: a row is the ids of its prompt and the ids behind it, of which those that
the policy sampled are trained and those of observations are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from mmrl.engines.base import Completion
from mmrl.engines.decoder import Row
from mmrl.environments.base import Context, Environment, Episode, Reply, drawn_by
from mmrl.media import Perceived, Size, sounds_of
from mmrl.modalities.tokens.config import ConversationConfig
from mmrl.modalities.tokens.prompts import TooLong
from mmrl.seeds import seed_of
from mmrl.types import Group, Prompt, Sample, Trajectory, Turn

# (rows, n, seeds) -> n completions of each row
Generate = Callable[[Sequence[Row], int, Sequence[Sequence[int]]], list[list[Completion]]]


@dataclass(frozen=True)
class Opened:
    """A context as the policy reads it."""

    row: Row
    media: list[Perceived]
    turns: list[Turn]


class Speaker(Protocol):
    """What a conversation asks of the modality: tokens/reading.py."""

    def environment_of(self, prompt: Prompt) -> Environment | None: ...

    def opening(self, prompt: Prompt) -> Context: ...

    def sizes(self, prompt: Prompt) -> Sequence[Size]: ...

    def opened(self, prompt: Prompt, context: Context) -> Opened: ...

    def replied(self, prompt: Prompt, reply: Reply, end: int | None, heard: int) -> tuple[Row, list[Perceived]]: ...

    def text(self, ids: Tensor) -> str: ...

    def said(self, prompt: Prompt, turns: Sequence[str]) -> str: ...

    def words(self, ids: Tensor) -> list[str]: ...


@dataclass(frozen=True)
class Rules:
    """limits: budgets of a conversation. room: tokens of a row, prompt and all. stop_ids: what ends a turn."""

    limits: ConversationConfig
    room: int
    stop_ids: Sequence[int]


@dataclass
class Conversation:
    """One row that is being sampled; the columns of its lists are the ids behind the prompt."""

    group: int
    index: int
    seed: int
    episode: Episode
    prompt: Row
    rest: Row
    logp: list[Tensor] = field(default_factory=list)
    trained: list[Tensor] = field(default_factory=list)
    heat: list[Tensor] = field(default_factory=list)
    turn: list[Tensor] = field(default_factory=list)
    versions: list[Tensor] = field(default_factory=list)
    turns: int = 0  # of the policy, over all rows of the episode
    stop: str = ""

    def add(self, made: Completion, heat: Sequence[float], text: str) -> None:
        """A turn of the policy."""
        self._extend(Row(made.ids), made.logp, True, heat, self.turns, made.versions)
        self.episode.turns.append(Turn("assistant", text, trained=True))
        self.episode.finished = made.stop != "length"
        self.turns += 1
        self.stop = made.stop

    def observe(self, row: Row, turn: Turn, media: Sequence[Perceived]) -> None:
        """What the environment answers."""
        self._extend(row, torch.zeros(len(row)), False, (), -1)
        first = len(self.episode.media)
        self.episode.media += media
        shown = tuple(range(first, first + len(media)))
        self.episode.turns.append(Turn(turn.role, turn.text, shown))

    def shorten(self, count: int, text: str) -> None:
        """Keep the first `count` ids of the last turn, whose text is then `text`."""
        drop = len(self.logp[-1]) - count
        if drop <= 0:
            return
        self.rest = Row(self.rest.ids[:-drop], self.rest.media)
        for columns in (self.logp, self.trained, self.heat, self.turn, self.versions):
            columns[-1] = columns[-1][:count]
        self.episode.turns[-1] = Turn("assistant", text, trained=True)

    def _extend(
        self,
        row: Row,
        logp: Tensor,
        trained: bool,
        heat: Sequence[float],
        turn: int,
        versions: Tensor | None = None,
    ) -> None:
        count = len(row)
        self.rest = self.rest.then(row)
        self.logp.append(logp)
        self.trained.append(torch.full((count,), trained))
        self.heat.append(torch.tensor([*heat[:count], *[1.0] * (count - len(heat))]))
        self.turn.append(torch.full((count,), float(turn)))
        self.versions.append(torch.full((count,), -1) if versions is None else versions)


def converse(
    speaker: Speaker,
    groups: Sequence[Group],
    n: int,
    seeds: Sequence[Sequence[int]] | None,
    generate: Generate,
    rules: Rules,
    *,
    per_turn: int,
    heat: Sequence[float] = (),
    step: int | None = None,
) -> list[Group]:
    """Each group with the samples of n conversations; one that restarts makes a sample of every row.

    seeds: n of each group; None where nothing is sampled: `generate` reads out given answers. per_turn: tokens that a
    turn may have. heat: temperatures by place in a turn, where they differ. step: the training step, None in
    evaluation.
    """
    worlds = [speaker.environment_of(group.prompt) for group in groups]
    begun = [
        _begun(speaker, place, group.prompt, world, [None] * n if seeds is None else seeds[place], step)
        for place, (group, world) in enumerate(zip(groups, worlds))
    ]
    for talk, made in zip((talk for talks in begun for talk in talks), _first_turns(begun, worlds, generate)):
        talk.add(made, heat, speaker.text(made.ids))
    live = [talk for talks in begun for talk in talks]
    done: list[list[Sample]] = [[] for _ in groups]
    while live:
        going = []
        for talk in live:
            following = _advance(talk, speaker, worlds[talk.group], rules, per_turn, done)
            if following is not None:
                going.append(following)
        if going:
            again = [[seed_of(t.seed, t.turns)] for t in going]
            answers = generate([t.prompt.then(t.rest) for t in going], 1, again)
            for talk, (answer,) in zip(going, answers):
                talk.add(answer, heat, speaker.text(answer.ids))
        live = going
    filled = []
    for group, samples in zip(groups, done):
        samples.sort(key=lambda s: s.index)  # stable: the rows of a conversation stay in their order
        for place, sample in enumerate(samples):
            sample.index = place
        filled.append(replace(group, samples=samples))
    return filled


def _begun(
    speaker: Speaker,
    place: int,
    prompt: Prompt,
    environment: Environment | None,
    seeds: Sequence[int | None],
    step: int | None,
) -> list[Conversation]:
    """The conversations of one prompt; they begin in one row, but where the environment draws what it shows."""
    sizes, talks = speaker.sizes(prompt), list[Conversation]()
    start: Opened | None = None
    for index, seed in enumerate(seeds):
        episode = Episode(prompt, sizes, step=step, seed=seed, index=None if seed is None else index)
        if environment is None:
            start = start or speaker.opened(prompt, speaker.opening(prompt))
        else:
            context = environment.open(episode)  # each conversation has a memory of its own
            if start is None or drawn_by(environment):
                episode, start = _fitting(speaker, environment, episode, context)
        talks.append(_started(place, index, seed or 0, episode, start))
    return talks


def _fitting(speaker: Speaker, environment: Environment, episode: Episode, context: Context) -> tuple[Episode, Opened]:
    """The opening; where what was drawn is too long, by the tokens that meet in it, the one that nothing was drawn for:
    by that one the prompt was found to fit."""
    try:
        return episode, speaker.opened(episode.prompt, context)
    except TooLong:
        if episode.seed is None or not drawn_by(environment):
            raise
    episode = Episode(episode.prompt, episode.sizes, step=episode.step)
    return episode, speaker.opened(episode.prompt, environment.open(episode))


def _first_turns(
    begun: Sequence[Sequence[Conversation]], worlds: Sequence[Environment | None], generate: Generate
) -> list[Completion]:
    """The first turn of each conversation, prompt by prompt."""
    made: dict[int, list[Completion]] = {}
    shared = [place for place, world in enumerate(worlds) if not drawn_by(world)]
    own = [place for place in range(len(worlds)) if drawn_by(worlds[place])]
    if shared:
        rows, seeds = [begun[p][0].prompt for p in shared], [[t.seed for t in begun[p]] for p in shared]
        made |= dict(zip(shared, generate(rows, len(seeds[0]), seeds)))
    if own:
        talks = [talk for place in own for talk in begun[place]]
        turns = iter(generate([talk.prompt for talk in talks], 1, [[talk.seed] for talk in talks]))
        made |= {place: [next(turns)[0] for _ in begun[place]] for place in own}
    return [turn for place in range(len(begun)) for turn in made[place]]


def _started(place: int, index: int, seed: int, episode: Episode, start: Opened, turns: int = 0) -> Conversation:
    episode.turns, episode.media = list(start.turns), list(start.media)
    return Conversation(place, index, seed, episode, start.row, Row(torch.zeros(0, dtype=torch.int64)), turns=turns)


def _advance(
    talk: Conversation,
    speaker: Speaker,
    environment: Environment | None,
    rules: Rules,
    per_turn: int,
    done: list[list[Sample]],
) -> Conversation | None:
    """The conversation (or its next row) where the policy is to speak again; otherwise None, and it is in `done`."""
    limits, stop_ids = rules.limits, rules.stop_ids
    episode = talk.episode
    asks = environment is not None and (episode.finished or environment.answers_cut)
    reply = environment.respond(episode) if environment is not None and asks else None
    if reply is not None and reply.keep is not None:
        _shorten(talk, speaker, reply.keep, stop_ids)
    if reply is None:
        done[talk.group].append(_sample(talk, speaker))
        return None
    if talk.turns >= limits.max_turns:
        talk.stop = "turns"
        done[talk.group].append(_sample(talk, speaker))
        return None
    if reply.restart is not None:
        try:
            start = speaker.opened(episode.prompt, reply.restart)
        except TooLong:
            talk.stop = "length"
            done[talk.group].append(_sample(talk, speaker))
            return None
        done[talk.group].append(_sample(talk, speaker))
        fresh = replace(episode, turns=[], media=[], finished=True, info={})  # the memory is the same
        return _started(talk.group, talk.index, talk.seed, fresh, start, talk.turns)
    last = int(talk.rest.ids[-1])
    heard = len(sounds_of(episode.media))
    row, media = speaker.replied(episode.prompt, reply, last if last in stop_ids else None, heard)
    behind = len(talk.rest) + len(row)
    over = len(talk.prompt) + behind + per_turn > rules.room or (
        limits.max_tokens is not None and behind >= limits.max_tokens
    )
    if over or len(episode.media) + len(media) > limits.max_pictures:
        talk.stop = "length" if over else "pictures"
        done[talk.group].append(_sample(talk, speaker))
        return None
    talk.observe(row, Turn(reply.role, reply.text), media)
    return talk


def _shorten(talk: Conversation, speaker: Speaker, keep: int, stop_ids: Sequence[int]) -> None:
    """Cut the last turn behind its first `keep` characters, at the first id that reaches them; where only its EOS is
    behind that id, it stays: the policy ended the turn there itself."""
    count = len(talk.logp[-1])
    ids = talk.rest.ids[-count:]
    low, high = 1, count
    while low < high:
        middle = (low + high) // 2
        if len(speaker.text(ids[:middle])) >= keep:
            high = middle
        else:
            low = middle + 1
    if low + 1 < count or int(ids[-1]) not in stop_ids:
        talk.shorten(low, speaker.text(ids[:low]))


def _sample(talk: Conversation, speaker: Speaker) -> Sample:
    tensors: dict[str, Any] = {"prompt": talk.prompt.ids.clone(), "ids": talk.rest.ids}
    heat = torch.cat(talk.heat)
    if bool((heat != 1).any()):
        tensors["temperature"] = heat
    if talk.turns > 1 or len(talk.turn) > 1:
        tensors["step"] = torch.cat(talk.turn)
    versions = torch.cat(talk.versions)
    if bool((versions >= 0).any()):
        tensors["versions"] = versions
    trajectory = Trajectory(torch.cat(talk.logp), torch.cat(talk.trained), tensors)
    episode = talk.episode
    return Sample(
        episode.prompt,
        talk.index,
        speaker.said(episode.prompt, episode.said),
        trajectory,
        talk.stop,
        words=speaker.words(talk.rest.ids),
        turns=tuple(episode.turns),
        media=tuple(episode.media),
        info={**episode.info, "episode": talk.index} if episode.info else {},
    )
