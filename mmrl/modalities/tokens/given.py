"""Given answers as samples with trajectories: of preference pairs, and of records that are imitated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from mmrl.engines.base import Completion
from mmrl.engines.decoder import Row
from mmrl.environments.base import Context
from mmrl.environments.opening import opening
from mmrl.media import AUDIO, IMAGE, SOUND_COLUMNS, Heard, Place, View, own_sounds
from mmrl.modalities.tokens.conversation import Opened, Rules, converse
from mmrl.modalities.tokens.prompts import continues
from mmrl.modalities.tokens.reading import Reader
from mmrl.types import Group, Prompt, Sample, Trajectory, Turn

# A text, ids that are taken as they are, the turns of a conversation as texts, or a conversation as messages.
Answer = str | Sequence[int] | Sequence[str] | Sequence[Mapping[str, Any]]


def said(
    reader: Reader, rules: Rules, prompt: Prompt, index: int, answer: Answer, banned: Sequence[int]
) -> list[Sample]:
    """The samples of one answer, more than one where its environment opens new rows; their log-probs are 0.

    banned: ids that no answer may have. Raises ValueError for an answer that does not fit into the context, or whose
    turns do not fit the environment.
    """
    if is_conversation(answer):
        return [_told(reader, rules, prompt, index, answer, banned)]
    count = len(turns_of(answer))
    left = _encoded(reader, prompt, index, answer, banned)

    def read_out(rows: Sequence[Row], n: int, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        if not left:
            raise ValueError(f"prompt {prompt.id!r}: answer {index} has {count} turns, its environment wants more")
        ids = left.pop(0)
        _check_room(prompt, index, len(rows[0]) + len(ids), rules)
        return [[Completion(ids, torch.zeros(len(ids)), "eos")]]

    (group,) = converse(reader, [Group(prompt, 0)], 1, None, read_out, rules, per_turn=0)
    if left:
        raise ValueError(f"prompt {prompt.id!r}: answer {index} has {count} turns, its environment ended before")
    for sample in group.samples:
        sample.index = index
    return group.samples


def stepwise(reader: Reader, rules: Rules, prompt: Prompt, texts: Sequence[str], banned: Sequence[int]) -> Sample:
    """The sample of an answer in steps, each encoded by itself; `ends` are the places of their last tokens.

    Raises ValueError for a step without a token, and as `said` does.
    """
    pieces = [torch.tensor(reader.prompts.turns.encode(text), dtype=torch.int64) for text in texts]
    empty = next((number for number, ids in enumerate(pieces) if not len(ids)), None)
    if not pieces or empty is not None:
        raise ValueError(f"prompt {prompt.id!r}: {'there are no steps' if not pieces else f'step {empty} is empty'}")
    ids = torch.cat(pieces)
    (sample,) = said(reader, rules, prompt, 0, ids.tolist(), banned)
    sample.actions.tensors["ends"] = torch.tensor([len(piece) for piece in pieces]).cumsum(0) - 1
    return sample


def _told(
    reader: Reader, rules: Rules, prompt: Prompt, index: int, answer: Sequence[Mapping[str, Any]], banned: Sequence[int]
) -> Sample:
    """The sample of a conversation that is given with all that others say in it: the policy's turns are trained."""
    if reader.environment_of(prompt) is not None:
        raise ValueError(f"prompt {prompt.id!r}: answer {index} is a conversation, and so is its environment")
    left = _encoded(reader, prompt, index, answer, banned)
    others = [message for message in answer if message["role"] != "assistant"]
    pictures, sounds = len(reader.sizes(prompt)), len(own_sounds(prompt.record))
    pictures, sounds = pictures - _marks(others, IMAGE, pictures), sounds - _marks(others, AUDIO, sounds)
    start = _opened(reader, prompt, pictures, sounds)
    rest, media, turns = Row(torch.zeros(0, dtype=torch.int64)), list(start.media), list(start.turns)
    trained, number = [], []
    for turn, (message, others) in enumerate(exchanges(answer)):
        ids = left.pop(0)
        rest = rest.then(Row(ids))
        trained.append(torch.full((len(ids),), is_trained(message)))
        number.append(torch.full((len(ids),), float(turn)))
        turns.append(Turn("assistant", reader.text(ids), trained=is_trained(message)))
        if others:
            told = reader.later(prompt, others, pictures, sounds)
            views = [view for _, some in told for view in some]
            heard = sum(isinstance(one, Heard) for one in media)
            row, shown = reader.observed(prompt, [message for message, _ in told], views, int(ids[-1]), heard)
            rest = rest.then(row)
            trained.append(torch.zeros(len(row), dtype=torch.bool))
            number.append(torch.full((len(row),), -1.0))
            turns += _heard(told, len(media))
            media += shown
            pictures, sounds = pictures + _marks(others, IMAGE, 1), sounds + _marks(others, AUDIO, 1)
    _check_room(prompt, index, len(start.row) + len(rest), rules)
    mask = torch.cat(trained)
    tensors = {"prompt": start.row.ids.clone(), "ids": rest.ids}
    if len(number) > 1:
        tensors["step"] = torch.cat(number)
    words = "\n".join(turn.text for turn in turns[len(start.turns) :] if turn.role == "assistant")
    return Sample(
        prompt,
        index,
        words,
        Trajectory(torch.zeros(len(mask)), mask, tensors),
        "eos",
        words=reader.words(rest.ids),
        turns=tuple(turns),
        media=tuple(media),
    )


def _opened(reader: Reader, prompt: Prompt, pictures: int, sounds: int) -> Opened:
    """The opening with the pictures and sounds that are not marked later: the first ones."""
    first = prompt
    own = own_sounds(prompt.record)
    if 0 <= sounds < len(own):
        others = {name: value for name, value in prompt.record.items() if name not in SOUND_COLUMNS}
        first = replace(prompt, record={**others, "sounds": own[:sounds]})
    if not reader.sizes(prompt):
        return reader.opened(first, reader.opening(first))
    return reader.opened(first, Context(opening(first, pictures), [View(i) for i in range(pictures)]))


def _marks(messages: Sequence[Mapping[str, Any]], mark: str, count: int) -> int:
    """How many marks messages have; 0 of what a record has none of, which are words."""
    return sum(message["content"].count(mark) for message in messages) if count else 0


def _heard(messages: Sequence[tuple[Mapping[str, Any], Sequence[Place]]], before: int) -> list[Turn]:
    turns = []
    for message, views in messages:
        turns.append(Turn(message["role"], message["content"], tuple(range(before, before + len(views)))))
        before += len(views)
    return turns


def _check_room(prompt: Prompt, index: int, count: int, rules: Rules) -> None:
    if count > rules.room:
        raise ValueError(
            f"prompt {prompt.id!r} with answer {index} has {count} tokens, the context has {rules.room}; leave it out"
        )


def _encoded(reader: Reader, prompt: Prompt, index: int, answer: Answer, banned: Sequence[int]) -> list[Tensor]:
    """The ids of each turn of an answer."""
    turns = ids_of(reader, prompt.record, answer)
    for wrong in {i for ids in turns for i in ids.tolist()} & set(banned):
        word = repr(reader.word_of[wrong]) if wrong < len(reader.word_of) else "without a text"
        raise ValueError(
            f"prompt {prompt.id!r}: answer {index} has the token {word} ({wrong}), which stands for something that is "
            "shown, or for nothing, and is never sampled; take it out"
        )
    return turns


def ids_of(reader: Reader, record: Mapping[str, Any], answer: Answer) -> list[Tensor]:
    """The ids of each of the policy's turns in an answer, with the ends that the template writes."""
    messages = record.get("messages") or ()
    begun = bool(messages) and continues(messages)
    return [
        reader.prompts.answer_ids(turn, record, continued=begun and number == 0)
        for number, turn in enumerate(turns_of(answer))
    ]


def answer_of(record: Mapping[str, Any]) -> tuple[Prompt, Answer]:
    """(prompt, answer) of a record {"prompt" or "messages", "completion"}. Raises ValueError without an answer."""
    text, completion = record.get("prompt") or "", record.get("completion")
    prompt = Prompt(str(record.get("id", text)), text, record)
    if not isinstance(completion, str | list):
        raise ValueError(f"record {prompt.id!r}: needs a text (or ids) in `completion`, got {str(completion)[:60]!r}")
    return prompt, completion


def token_count(reader: Reader, records: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of the records' answers that are trained."""
    count = 0
    for record in records:
        answer = answer_of(record)[1]
        trained = [is_trained(turn) for turn in turns_of(answer)]
        count += sum(len(ids) for ids, counts in zip(ids_of(reader, record, answer), trained) if counts)
    return count


def is_conversation(answer: Answer) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Whether an answer is messages, the policy's and those of others between them."""
    return isinstance(answer, list | tuple) and len(answer) > 0 and isinstance(answer[0], Mapping)


def is_trained(turn: Any) -> bool:
    """Whether the policy learns a turn of its own: a message may say that it does not."""
    return not isinstance(turn, Mapping) or bool(turn.get("loss", True))


def turns_of(answer: Answer) -> Sequence[Any]:
    """The policy's turns in an answer: one, the texts of a list, or its messages in a conversation."""
    if is_conversation(answer):
        return [message for message, _ in exchanges(answer)]
    return answer if not isinstance(answer, str) and len(answer) and isinstance(answer[0], str) else [answer]


def exchanges(answer: Any) -> list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """(message of the policy, messages of others behind it) in their order."""
    found: list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]] = []
    for message in answer:
        if message["role"] == "assistant":
            found.append((message, []))
        else:
            found[-1][1].append(message)
    return found
