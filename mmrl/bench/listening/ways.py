"""The ways in which each question is asked: in every rotation of its options, without its sound, with another's."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from mmrl.bench.listening.reading import Question
from mmrl.config import ConfigError
from mmrl.near import short
from mmrl.seeds import seed_of
from mmrl.types import Prompt

GIVEN, DEAF, SWAPPED = "given", "no sound", "another sound"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
QUESTION = "{question}\nOne of these options is right. Answer with its text and nothing else:\n{options}"
LETTERED = "{question}\n{options}\nAnswer with the letter of the option that is right."


@dataclass(frozen=True)
class Way:
    """name: GIVEN, DEAF, SWAPPED, or "rotation 2". options: in the order in which they are shown. sound: None: none."""

    name: str
    options: tuple[str, ...]
    sound: str | None


def ways(question: Question, other: str) -> list[Way]:
    """All ways of asking a question, the given one first. other: another question's sound."""
    options, count = question.options, len(question.options)
    turned = [
        Way(f"rotation {by}", tuple(options[(place + by) % count] for place in range(count)), question.sound)
        for by in range(1, count)
    ]
    return [Way(GIVEN, options, question.sound), *turned, Way(DEAF, options, None), Way(SWAPPED, options, other)]


def others(questions: Sequence[Question], seed: int) -> dict[str, str]:
    """Id -> another question's sound. Each question's is given away once; no question gets its own file as long as no
    file has more than half of the questions.

    Raises ConfigError where all have one.
    """
    if len({question.sound for question in questions}) < 2:
        raise ConfigError("all questions are about one sound, so that there is no other to ask them with")
    order = list(questions)
    random.Random(seed_of("bench other sounds", seed)).shuffle(order)
    by_sound: dict[str, list[Question]] = {}
    for question in order:
        by_sound.setdefault(question.sound, []).append(question)
    order = [question for some in by_sound.values() for question in some]
    most = max(map(len, by_sound.values()))  # so far on, no file meets itself
    return {question.id: order[(place + most) % len(order)].sound for place, question in enumerate(order)}


def prompt_of(question: Question, way: Way, wording: str, letters: bool, root: Path) -> Prompt:
    """What a model is asked."""
    marks = [f"{letter}. " if letters else "- " for letter in LETTERS]
    shown = "\n".join(mark + option for mark, option in zip(marks, way.options))
    text = Formatter().vformat(wording, (), {"question": question.text, "options": shown})
    record = {"prompt": text, "choices": list(way.options), "answer": question.gold}
    heard = {} if way.sound is None else {"sounds": [way.sound]}
    return Prompt(f"{question.id}#{way.name}", text, record | heard, str(root))


def wording_of(file: str | Path | None, letters: bool) -> str:
    """The words of a question: those of a file with {question} and {options}, or ours.

    Raises ConfigError for a file that lacks one of both, or has other places.
    """
    if file is None:
        return LETTERED if letters else QUESTION
    try:
        text = Path(file).read_text(encoding="utf-8").strip("\n")
        places = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except (OSError, ValueError) as error:
        raise ConfigError(f"--template {file} cannot be read: {error}") from None
    if places != {"question", "options"}:
        raise ConfigError(
            f"--template {file} has places {short(sorted(places))}; expected {{question}} and {{options}}"
        )
    return text


def counts(asked: Mapping[str, Sequence[Way]]) -> int:
    return sum(map(len, asked.values()))
