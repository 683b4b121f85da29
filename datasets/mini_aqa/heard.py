"""What is heard in a question of each kind: which clips, one after the other or over one another."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrl.importing import import_file

mixing = import_file(Path(__file__).resolve().parent / "mixing.py")
clips, SECONDS = mixing.clips, mixing.SECONDS
PAUSE, SHORT = 0.15, 0.3  # between two clips, of a hit that is counted; seconds
SOFT = 0.25  # of the louder one's amplitude
WORDS = 7  # of a sentence that an option shows

Made = tuple[list[Any], str, list[str]]  # parts, in words, families


def pool(kind: str, split: str) -> list[str]:
    """Everything that can be the right answer to a kind of question."""
    if kind in ("instrument", "first"):
        return sorted({row["label"] for row in clips() if row["kind"] == "instrument"})
    if kind == "count":
        return ["one", "two", "three", "four"]
    if kind == "louder":
        return ["the first time", "the second time"]
    if kind == "voice":
        return ["a voice", "an instrument"]
    return sorted({short(row["label"]) for row in clips() if (row["kind"], row["split"]) == (kind, split)})


def short(text: str) -> str:
    """The first words of what is said."""
    words = text.split()
    return " ".join(words[:WORDS])


@dataclass(frozen=True)
class Draw:
    """What clips of a question are drawn with."""

    split: str
    rng: random.Random
    vary: float

    def one(self, kind: str, label: str | None = None) -> dict[str, Any]:
        """A clip of a kind, of a label where one is told; labels are drawn before clips, so that all are frequent."""
        rows = [row for row in clips() if (row["kind"], row["split"]) == (kind, self.split)]
        told = label or short(self.rng.choice(sorted({row["label"] for row in rows})))
        found = self.rng.choice([row for row in rows if short(row["label"]) == told])
        return mixing.varied(found, self.rng, self.vary)

    def alone(self, row: dict[str, Any], words: str) -> Made:
        """One clip, somewhere in the sound."""
        at = self.rng.uniform(0, max(0.0, SECONDS - row["seconds"]) / 2)
        return [mixing.part(row, round(at, 3), SECONDS)], words, [row["family"]]


Maker = Callable[[str, Sequence[str], Draw], Made]


def _instrument(answer: str, options: Sequence[str], draw: Draw) -> Made:
    """Varied, there may be a second instrument of the same name beneath."""
    parts, words, families = draw.alone(draw.one("instrument", answer), f"{answer} is heard")
    if draw.vary and draw.rng.random() < draw.vary / 3:
        other = draw.one("instrument", answer)
        parts.append(mixing.part(other, parts[0].at, SECONDS, round(draw.rng.uniform(0.2, 0.6), 3)))
        families = list(dict.fromkeys([*families, other["family"]]))
    return parts, words, families


def _spoken(kind: str) -> Maker:
    return lambda answer, options, draw: draw.alone(draw.one(kind, answer), f"a voice says: {answer}")


def _voice(answer: str, options: Sequence[str], draw: Draw) -> Made:
    kind = draw.rng.choice(["sentence", "phrase"]) if answer == "a voice" else "instrument"
    return draw.alone(draw.one(kind), f"{answer} is heard")


def _first(answer: str, options: Sequence[str], draw: Draw) -> Made:
    """The right one, and behind it one of the others that are options."""
    other = draw.rng.choice([option for option in options if option != answer])
    rows = [draw.one("instrument", label) for label in (answer, other)]
    most = (SECONDS - PAUSE) / 2
    at = round(min(rows[0]["seconds"], most) + PAUSE, 3)
    parts = [mixing.part(rows[0], 0.0, most), mixing.part(rows[1], at, most)]
    return parts, f"{answer} is heard, and then {other}", [row["family"] for row in rows]


def _louder(answer: str, options: Sequence[str], draw: Draw) -> Made:
    row = draw.one("instrument")
    most = (SECONDS - PAUSE) / 2
    at = round(min(row["seconds"], most) + PAUSE, 3)
    loud = (1.0, SOFT) if answer == "the first time" else (SOFT, 1.0)
    parts = [mixing.part(row, 0.0, most, loud[0]), mixing.part(row, at, most, loud[1])]
    words = "a loud sound and then a soft one" if loud[0] > loud[1] else "a soft sound and then a loud one"
    return parts, words, [row["family"]]


def _count(answer: str, options: Sequence[str], draw: Draw) -> Made:
    """Hits in some of five places."""
    count = pool("count", draw.split).index(answer) + 1
    drums = ["a bass drum", "a cymbal", "a snare drum", "a tabla", "a tom"]
    row = draw.one("instrument", draw.rng.choice(drums))
    places = sorted(draw.rng.sample(range(5), count))
    parts = [mixing.part(row, round(0.4 * place + draw.rng.uniform(0, 0.05), 3), SHORT) for place in places]
    hits = "is heard once" if count == 1 else f"is heard {answer} times"
    return parts, f"{row['label']} {hits}", [row["family"]]


MAKERS: dict[str, Maker] = {
    "voice": _voice,
    "louder": _louder,
    "first": _first,
    "instrument": _instrument,
    "count": _count,
    "phrase": _spoken("phrase"),
    "sentence": _spoken("sentence"),
}
