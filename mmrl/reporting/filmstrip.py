"""The same prompts at several evaluations, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from mmrl.reporting.cards import Card, CardMaker, alike
from mmrl.reporting.reading import RunReader
from mmrl.reporting.talks import PLACE, SIGN, Frame, shared_opening
from mmrl.reporting.words import clip

TEACHER = "eval_teacher"  # what the model draws that a distill stage learns from
MAX_COLUMNS = 5  # beside a teacher's
MAX_PROMPT = 600
UNFOLDED = 6  # strips that are seen without a click


@dataclass(frozen=True)
class Cell:
    """A card under its column's title; equal neighbours are one that spans their columns. card: None: not drawn."""

    when: str
    card: Card | None
    span: int = 1


@dataclass(frozen=True)
class Strip:
    """One prompt of the filmstrip. frames: pictures that all were shown."""

    prompt: str
    cells: tuple[Cell, ...]
    frames: tuple[Frame, ...] = ()


def evaluation_tags(reader: RunReader) -> list[str]:
    """A teacher's, eval_before, up to three evaluations in between (evenly spread), eval_after; those with something to
    show."""
    tags = [tag for tag in reader.tags("eval_") if reader.index(tag)["groups"]]
    ends = {TEACHER, "eval_before", "eval_after"}
    between = spread([tag for tag in tags if tag not in ends], MAX_COLUMNS - 2)
    return [tag for tag in (TEACHER, "eval_before", *between, "eval_after") if tag in tags]


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spread, the first and last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def filmstrip(
    maker: CardMaker, reader: RunReader, tags: Sequence[str], max_prompts: int, main: str | None
) -> list[Strip]:
    """The first prompts of the evaluations in their own order, first sample of each, one card a tag.

    main: the reward whose score a card shows, and its change since the policy's first column; see `judged`.
    """
    first = int(tags[:1] == [TEACHER])
    samples = [first_samples(reader.index(tag), main) for tag in tags]
    prompts = {id_: text for some in samples for id_, (text, _) in some.items()}
    strips = []
    for id_, text in list(prompts.items())[:max_prompts]:
        records = [some[id_][1] if id_ in some else None for some in samples]
        there = [(tag, record) for tag, record in zip(tags, records, strict=True) if record]
        count = shared_opening([record for _, record in there])
        opening = maker.opening(*there[0], count) if count else ()
        cards = [
            maker.card(tag, record, _change(records[first], record) if place > first else None, count)
            if record
            else None
            for place, (tag, record) in enumerate(zip(tags, records, strict=True))
        ]
        frames = tuple(frame for turn in opening for frame in turn.frames)
        cells = [Cell(tag_title(tag), card) for tag, card in zip(tags, cards, strict=True)]
        strips.append(Strip(shown_prompt(text), (*cells[:first], *_joined(cells[first:])), frames))
    return strips


def _joined(cells: Sequence[Cell]) -> list[Cell]:
    """Equal neighbours as one."""
    made = []
    for _, run in groupby(cells, key=lambda cell: cell.card and alike(cell.card)):
        some = list(run)
        when = some[0].when if len(some) == 1 else f"{some[0].when} to {some[-1].when}"
        card = some[-1].card  # whose change since the beginning is told
        same = len(some) > 1 and some[0] is cells[0]
        made.append(Cell(when, replace(card, change=None) if card and same else card, len(some)))
    return made


def judged(record: Mapping[str, Any], main: str | None) -> Mapping[str, Any]:
    """A sample of an evaluation with its score of the main metric as its reward, as evaluations combine no rewards.

    main: the reward of the main metric; where that is not known, the first one, which it is.
    """
    scores = record["scores"]
    name = main if main in scores else next(iter(scores), None)
    return record if record["reward"] is not None or name is None else {**record, "reward": scores[name]["value"]}


def tag_title(tag: str) -> str:
    """eval_before -> before, eval_000050 -> step 50, step_000012 -> step 12."""
    kind, _, rest = tag.partition("_")
    if rest.isdecimal():
        return f"{kind if kind == 'offending' else 'step'} {int(rest)}"
    return rest or kind


def shown_prompt(text: str) -> str:
    """A prompt with a sign at the places of its pictures, cut short."""
    return clip(text.replace(PLACE, f"{SIGN} "), MAX_PROMPT)


def first_samples(index: Mapping[str, Any], main: str | None) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """By the prompt's id: its text, and the first sample as `judged`."""
    return {
        group["prompt"]["id"]: (
            group["prompt"]["text"],
            judged(min(group["samples"], key=lambda sample: sample["index"]), main),
        )
        for group in index["groups"]
        if group["samples"]
    }


def _change(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> float | None:
    if not before or not now or before["reward"] is None or now["reward"] is None:
        return None
    return now["reward"] - before["reward"]
