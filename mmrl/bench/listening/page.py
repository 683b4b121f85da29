"""results.html of MMAU or MMAR: the table with bars, and the first questions with sound, options and every answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.bench.listening.reading import Question
from mmrl.bench.listening.scores import Said, right
from mmrl.bench.listening.ways import GIVEN, LETTERS, Way
from mmrl.bench.outcome import Outcome
from mmrl.bench.page import PAGE, UNFOLDED, bar_of
from mmrl.reporting.files import write_atomic
from mmrl.reporting.page import render
from mmrl.reporting.sounds import TYPES, Player, encoded, player_of
from mmrl.reporting.words import clip
from mmrl.sounds import SoundError, load

_MOST_SAID = 400


@dataclass(frozen=True)
class Option:
    """letter: its place in the file's order."""

    letter: str
    text: str
    gold: bool


@dataclass(frozen=True)
class Answer:
    """What was said to a question in one way. order: the letters of its options as they were shown."""

    way: str
    order: str
    said: str
    right: bool


@dataclass(frozen=True)
class Shown:
    """A question. player: None where its sound was not looked for."""

    id: str
    text: str
    groups: tuple[str, ...]
    options: tuple[Option, ...]
    answers: tuple[Answer, ...]
    player: Player | None


def write_page(
    folder: Path,
    outcome: Outcome,
    questions: Sequence[Question],
    said: Mapping[str, Said],
    asked: Mapping[str, Sequence[Way]],
    facts: Mapping[str, Any],
    root: Path | None = None,
    max_questions: int = 60,
    max_bytes: int = 40_000_000,
) -> Path:
    """Write results.html and return its path.

    asked: the ways in which each question was asked; one without any was given. root: of the sounds, which are played
    up to max_bytes together; None: none is. Raises WriteError.
    """
    left = max_bytes

    def charged(uri: str, name: str) -> tuple[str, str]:
        nonlocal left
        if len(uri) > left:
            return "", f"left out to keep this file small: {name}"
        left -= len(uri)
        return uri, ""

    shown = [
        Shown(
            question.id,
            question.text,
            question.groups,
            tuple(Option(LETTERS[n % 26], text, text == question.gold) for n, text in enumerate(question.options)),
            tuple(_answers(question, said.get(question.id, {}), asked.get(question.id, ()))),
            None if root is None else _player(question, root, charged),
        )
        for question in questions[:max_questions]
    ]
    html = render(
        "listening.html.j2",
        name=outcome.benchmark,
        facts=[(label, str(value)) for label, value in facts.items() if value not in (None, "")],
        headline=outcome.rows[0],
        bars=[bar_of(row) for row in outcome.rows],
        lost=False,
        notices=list(outcome.notices),
        shown=shown,
        total=len(questions),
        unfolded=UNFOLDED,
        problems=[],
    )
    write_atomic(folder / PAGE, html)
    return folder / PAGE


def _answers(question: Question, said: Said, ways: Sequence[Way]) -> list[Answer]:
    ways = ways or [Way(GIVEN, question.options, question.sound)]
    letters = dict(zip(question.options, LETTERS))
    return [
        Answer(
            way.name,
            " ".join(letters.get(option, "?") for option in way.options),
            clip(said.get(way.name, "no answer"), _MOST_SAID),
            right(question, said.get(way.name)),
        )
        for way in ways
    ]


def _player(question: Question, root: Path, charged: Any) -> Player:
    try:
        sound = load(question.sound, root=root, max_seconds=float("inf"))
    except (SoundError, ImportError) as error:
        return Player(question.sound, note=str(error))
    data, suffix = encoded(sound.samples)
    caption = f"{Path(question.sound).name} · {sound.seconds:.1f} s"
    return player_of(data, TYPES[suffix], sound.samples, question.sound, caption, charged)
