"""Groups of samples as the report shows them: best first, equal ones once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmrl.reporting.cards import Card, CardMaker, by_advantage, folded
from mmrl.reporting.filmstrip import MAX_PROMPT, Cell, first_samples, shown_prompt, spread, tag_title
from mmrl.reporting.matrix import Matrix, matrices
from mmrl.reporting.reading import RunReader
from mmrl.reporting.solids import goal_of
from mmrl.reporting.talks import TurnView, shared_opening
from mmrl.reporting.words import clip


@dataclass(frozen=True)
class GroupView:
    """One group, best sample first. `scale` is the largest |advantage|, the length of a full bar.

    opening: the turns that all its samples begin with, where they are conversations. shown: samples on the cards.
    matrices: who won against whom, of all samples, where a reward compares them. faces: small pictures for them, by the
    number of the sample. evaluated: what evaluations drew for the same prompt, the first sample of each. options: those
    of multiple choice in the order shown, A being the record's first; "" where they were not moved.
    """

    prompt: str
    id: str
    cards: tuple[Card, ...]
    shown: int
    total: int
    scale: float
    opening: tuple[TurnView, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    faces: Mapping[str, str] = field(default_factory=dict)
    evaluated: tuple[Cell, ...] = ()
    options: str = ""

    @property
    def sizes(self) -> bool:
        """Whether training and evaluation draw its prompt in different sizes."""
        others = {cell.card.size for cell in self.evaluated if cell.card and cell.card.size}
        return bool(others) and others != {card.size for card in self.cards if card.size}


@dataclass(frozen=True)
class StepView:
    """The groups shown of one stored tag, of `total` that it holds."""

    title: str
    groups: tuple[GroupView, ...]
    total: int
    why: str = ""


def training_tags(reader: RunReader) -> list[str]:
    """First, middle and last stored training step."""
    return spread(reader.tags("step_"), 3)


def step_view(
    maker: CardMaker,
    reader: RunReader,
    tag: str,
    max_groups: int,
    max_samples: int,
    evaluated: Callable[[Mapping[str, Any]], tuple[Cell, ...]] = lambda prompt: (),
) -> StepView:
    """The first groups of a tag; see write_report for the bounds. evaluated: of a prompt, see evaluated_by."""
    index = reader.index(tag)
    groups = [_group_view(maker, tag, group, max_samples, evaluated) for group in index["groups"][:max_groups]]
    why = clip(str(index["extra"].get("why", "")), MAX_PROMPT)
    return StepView(tag_title(tag), tuple(groups), len(index["groups"]), why)


def evaluated_by(
    maker: CardMaker, reader: RunReader, tags: Sequence[str], main: str | None
) -> Callable[[Mapping[str, Any]], tuple[Cell, ...]]:
    """A function of a training prompt: the pictures that the first and the last evaluation drew for it, where they did.

    main: see filmstrip.judged.
    """
    ends = list(dict.fromkeys((*tags[:1], *tags[-1:])))
    samples = {tag: first_samples(reader.index(tag), main) for tag in ends}

    def found(prompt: Mapping[str, Any]) -> tuple[Cell, ...]:
        told = {tag: some.get(prompt["id"]) for tag, some in samples.items()}
        return tuple(
            Cell(tag_title(tag), maker.card(tag, record[1]))
            for tag, record in told.items()
            if record is not None and record[0] == prompt["text"] and str(record[1]["file"]).endswith(".png")
        )

    return found


def _group_view(
    maker: CardMaker,
    tag: str,
    group: Mapping[str, Any],
    max_samples: int,
    evaluated: Callable[[Mapping[str, Any]], tuple[Cell, ...]],
) -> GroupView:
    ranked = by_advantage(group["samples"])
    shown = ranked
    if len(ranked) > max_samples:
        worst = max_samples // 2
        shown = ranked[: max_samples - worst] + ranked[len(ranked) - worst :]
    advantages = [abs(sample["advantage"]) for sample in ranked if sample["advantage"] is not None]
    count = shared_opening(shown)
    goal = goal_of(group["samples"])
    cards = [maker.card(tag, sample, opening=count, goal=goal) for sample in shown]
    tables = matrices(group["samples"])
    faces = {str(sample["index"]): maker.face(tag, sample) for sample in group["samples"]} if tables else {}
    return GroupView(
        prompt=shown_prompt(group["prompt"]["text"]),
        id=group["prompt"]["id"],
        cards=tuple(folded(cards)),
        shown=len(shown),
        total=len(ranked),
        scale=max(advantages, default=0.0),
        opening=maker.opening(tag, shown[0], count) if count else (),
        matrices=tables,
        faces=faces,
        evaluated=evaluated(group["prompt"]),
        options=" ".join(chr(ord("A") + place) for place in group["prompt"]["options_order"] or ()),
    )
