"""Given answers as samples with trajectories: of preference pairs, and of records that are imitated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.base import Completion
from mmrl.engines.decoder import Row
from mmrl.modalities.tokens.conversation import Rules, converse
from mmrl.modalities.tokens.reading import Reader
from mmrl.types import Group, Prompt, Sample

# A text, ids that are taken as they are, or the turns of a conversation as texts.
Answer = str | Sequence[int] | Sequence[str]


def said(
    reader: Reader, rules: Rules, prompt: Prompt, index: int, answer: Answer, banned: Sequence[int]
) -> list[Sample]:
    """The samples of one answer, more than one where its environment opens new rows; their log-probs are 0.

    banned: ids that no answer may have. Raises ValueError for an answer that does not fit into the context, or whose
    turns do not fit the environment.
    """
    count = len(turns_of(answer))
    left = _encoded(reader, prompt, index, answer, banned)

    def read_out(rows: Sequence[Row], n: int, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        if not left:
            raise ValueError(f"prompt {prompt.id!r}: answer {index} has {count} turns, its environment wants more")
        ids = left.pop(0)
        if len(rows[0]) + len(ids) > rules.room:
            raise ValueError(
                f"prompt {prompt.id!r} with answer {index} has {len(rows[0]) + len(ids)} tokens, the context has "
                f"{rules.room}; leave it out"
            )
        return [[Completion(ids, torch.zeros(len(ids)), "eos")]]

    (group,) = converse(reader, [Group(prompt, 0)], 1, [[0]], read_out, rules, per_turn=0)
    if left:
        raise ValueError(f"prompt {prompt.id!r}: answer {index} has {count} turns, its environment ended before")
    for sample in group.samples:
        sample.index = index
    return group.samples


def _encoded(reader: Reader, prompt: Prompt, index: int, answer: Answer, banned: Sequence[int]) -> list[Tensor]:
    """The ids of each turn of an answer."""
    turns = [reader.prompts.answer_ids(turn) for turn in turns_of(answer)]
    for wrong in {i for ids in turns for i in ids.tolist()} & set(banned):
        word = repr(reader.word_of[wrong]) if wrong < len(reader.word_of) else "without a text"
        raise ValueError(
            f"prompt {prompt.id!r}: answer {index} has the token {word} ({wrong}), which stands for something that is "
            "shown, or for nothing, and is never sampled; take it out"
        )
    return turns


def answer_of(record: Mapping[str, Any]) -> tuple[Prompt, Answer]:
    """(prompt, answer) of a record {"prompt" or "messages", "completion"}. Raises ValueError without an answer."""
    text, completion = record.get("prompt") or "", record.get("completion")
    prompt = Prompt(str(record.get("id", text)), text, record)
    if not isinstance(completion, str | list):
        raise ValueError(f"record {prompt.id!r}: needs a text (or ids) in `completion`, got {str(completion)[:60]!r}")
    return prompt, completion


def token_count(reader: Reader, records: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of the records' answers."""
    return sum(len(reader.prompts.answer_ids(turn)) for r in records for turn in turns_of(answer_of(r)[1]))


def turns_of(answer: Answer) -> Sequence[Any]:
    """The turns of an answer: one, or the texts of a list."""
    return answer if not isinstance(answer, str) and len(answer) and isinstance(answer[0], str) else [answer]
