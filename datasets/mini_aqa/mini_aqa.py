"""Questions about recorded clips, with options of one kind, that cannot be answered without hearing.

`question` makes prompts, `record` adds answers to learn from: chains of thought in sections, free ones, or none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mmrl.sections import SECTIONS, chained, structured
from mmrl.seeds import seed_of
from mmrl.sounds import RATE, load

HERE = Path(__file__).resolve().parent
LETTERS = "ABCDEFGHI"
SECONDS, PAUSE, SHORT = 2.0, 0.15, 0.3  # of a whole sound, between two clips, of a hit that is counted
SOFT = 0.25  # of the louder one's amplitude
WORDS = 7  # of a sentence that an option shows

# Kind of question -> (what is asked, which task of MMAU it is like, how hard we take it to be, from 1).
KINDS: dict[str, tuple[str, str, int]] = {
    "voice": ("Is a voice heard, or an instrument?", "sound", 1),
    "louder": ("A sound is heard twice. Which time is it louder?", "sound", 1),
    "first": ("Two instruments are heard, one after the other. Which is the first?", "music", 2),
    "instrument": ("Which instrument is heard?", "music", 3),
    "count": ("How many times is the instrument struck?", "sound", 3),
    "phrase": ("Which words are spoken?", "speech", 4),
    "sentence": ("A part of a sentence is heard, which may be its middle. Which one begins like this?", "speech", 4),
}
MOST = 4  # options
_ASKED = {
    "letter": "Answer with a letter.",
    "text": "Answer with one of the options.",
    "tag": "Write the option that is right inside <RESPONSE></RESPONSE>.",
    "free": "Think inside <THINK></THINK>, then write the option that is right inside <RESPONSE></RESPONSE>.",
    "structured": "Inside <THINK></THINK> plan, describe what is heard, reason and sum up, each in a tag of its own: "
    f"{', '.join(f'<{name}>' for name in SECTIONS)}. Then write the option that is right inside <RESPONSE></RESPONSE>.",
}
Part = tuple[str, float, float, float]  # file, where it begins, how long it is at most (seconds), its amplitude


def question(
    index: int,
    seed: int = 0,
    split: str = "train",
    kinds: Sequence[str] = tuple(KINDS),
    ask: str = "letter",
    most: int = MOST,
) -> dict[str, Any]:
    """Prompt number `index`, the same for the same arguments.

    {id, prompt, sounds, choices, answer, letter, kind, task, level, families, heard, split}; the sound is a function
    that mixes it. kinds: of KINDS, in turns. ask: how the answer is wanted, a key of _ASKED. most: options at most.

    Of the n questions of a kind that follow one another every option is right once, and every place holds the right
    one once: whatever a policy does without hearing, of those n it is right about one on average.
    Raises ValueError for another split, kind or `ask`.
    """
    return _made(index, seed, split, kinds, ask, most)[0]


def record(
    index: int,
    seed: int = 0,
    split: str = "train",
    kinds: Sequence[str] = tuple(KINDS),
    ask: str = "letter",
    most: int = MOST,
    habit: float = 0.0,
) -> dict[str, Any]:
    """`question` with its `completion`, in the form that `ask` wants. habit: the share of the records, in [0, 1], that
    choose a wrong option (column `habit`)."""
    if not 0 <= habit <= 1:
        raise ValueError(f"habit={habit} must be from 0 to 1")
    made, rng = _made(index, seed, split, kinds, ask, most)
    wrong = rng.random() < habit
    said = rng.choice([c for c in made["choices"] if c != made["answer"]]) if wrong else made["answer"]
    return {**made, "completion": _completion(made, said, ask), "habit": wrong}


def mixed(parts: Sequence[Part]) -> tuple[np.ndarray, int]:
    """([n] float32, rate): clips laid over one another, each where it begins, in a sound of SECONDS."""
    clips = [(int(at * RATE), _clip(file)[: int(most * RATE)] * np.float32(loud)) for file, at, most, loud in parts]
    whole = np.zeros(int(SECONDS * RATE), np.float32)
    for at, clip in clips:
        fade = min(len(clip), RATE // 100)
        whole[at : at + len(clip)] += clip
        whole[at + len(clip) - fade : at + len(clip)] -= clip[-fade:] * np.linspace(0, 1, fade, dtype=np.float32)
    return whole, RATE


@lru_cache(maxsize=1)
def clips() -> list[dict[str, Any]]:
    """The table of clips: file, kind, label, split, family, author, licence, seconds."""
    return json.loads((HERE / "clips.json").read_text(encoding="utf-8"))


# -------------------------------------------------------------------- what is asked


def _made(
    index: int, seed: int, split: str, kinds: Sequence[str], ask: str, most: int
) -> tuple[dict[str, Any], random.Random]:
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected train or heldout")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds={list(kinds)}: expected some of {', '.join(KINDS)}")
    if ask not in _ASKED:
        raise ValueError(f"ask={ask!r}: expected {', '.join(_ASKED)}")
    if most < 2:
        raise ValueError(f"most={most}: a question has two options or more")
    kind, number = kinds[index % len(kinds)], index // len(kinds)
    options, turn, block = _options(kind, number, seed, split, most)
    answer = options[turn]
    rng = random.Random(seed_of("mini_aqa", seed, split, kind, number))
    parts, heard, families = _MAKERS[kind](answer, options, split, rng)
    shown = _placed(options, turn, block, rng)
    asked, task, level = KINDS[kind]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, shown)]
    made = {
        "id": f"{split}-{kind}-{number}",
        "prompt": "\n".join([f"<audio>{asked}", *lines, _ASKED[ask]]),
        "sounds": [partial(mixed, tuple(parts))],
        "choices": shown,
        "answer": answer,
        "letter": LETTERS[shown.index(answer)],
        "kind": kind,
        "task": task,
        "level": level,
        "families": families,
        "heard": heard,
        "split": split,
    }
    return made, rng


def _options(kind: str, number: int, seed: int, split: str, most: int) -> tuple[list[str], int, random.Random]:
    """(the options of a block of questions, which of them is right in this one, what else is drawn for the block)."""
    pool = _pool(kind, split)
    size = min(most, len(pool))
    block = random.Random(seed_of("mini_aqa block", seed, split, kind, number // size))
    return block.sample(pool, size), number % size, block


def _placed(options: Sequence[str], turn: int, block: random.Random, rng: random.Random) -> list[str]:
    """The options as they are shown: over a block the right one stands in each place once."""
    place = block.sample(range(len(options)), len(options))[turn]
    others = [option for n, option in enumerate(options) if n != turn]
    rng.shuffle(others)
    return [*others[:place], options[turn], *others[place:]]


def _pool(kind: str, split: str) -> list[str]:
    """Everything that can be the right answer to a kind of question."""
    if kind in ("instrument", "first"):
        return sorted({row["label"] for row in clips() if row["kind"] == "instrument"})
    if kind == "count":
        return ["one", "two", "three", "four"]
    if kind == "louder":
        return ["the first time", "the second time"]
    if kind == "voice":
        return ["a voice", "an instrument"]
    return sorted({_short(row["label"]) for row in clips() if (row["kind"], row["split"]) == (kind, split)})


def _short(text: str) -> str:
    """The first words of what is said."""
    words = text.split()
    return " ".join(words[:WORDS])


# -------------------------------------------------------------------- what is heard

Made = tuple[list[Part], str, list[str]]  # parts, in words, families


def _one(split: str, rng: random.Random, kind: str, label: str | None = None, longest: float = 9.0) -> dict[str, Any]:
    """A clip of a kind, of a label where one is told; labels are drawn before clips, so that each is as frequent."""
    rows = [r for r in clips() if (r["kind"], r["split"]) == (kind, split) and r["seconds"] <= longest]
    told = label or _short(rng.choice(sorted({r["label"] for r in rows})))
    return rng.choice([row for row in rows if _short(row["label"]) == told])


def _alone(row: dict[str, Any], rng: random.Random, words: str) -> Made:
    """One clip, somewhere in the sound."""
    at = rng.uniform(0, max(0.0, SECONDS - row["seconds"]) / 2)
    return [(row["file"], round(at, 3), SECONDS, 1.0)], words, [row["family"]]


def _instrument(answer: str, options: Sequence[str], split: str, rng: random.Random) -> Made:
    return _alone(_one(split, rng, "instrument", answer), rng, f"{answer} is heard")


def _spoken(kind: str) -> Callable[[str, Sequence[str], str, random.Random], Made]:
    return lambda answer, options, split, rng: _alone(_one(split, rng, kind, answer), rng, f"a voice says: {answer}")


def _voice(answer: str, options: Sequence[str], split: str, rng: random.Random) -> Made:
    kind = rng.choice(["sentence", "phrase"]) if answer == "a voice" else "instrument"
    return _alone(_one(split, rng, kind), rng, f"{answer} is heard")


def _first(answer: str, options: Sequence[str], split: str, rng: random.Random) -> Made:
    """The right one, and behind it one of the others that are options."""
    other = rng.choice([option for option in options if option != answer])
    rows = [_one(split, rng, "instrument", label) for label in (answer, other)]
    most = (SECONDS - PAUSE) / 2
    at = round(min(rows[0]["seconds"], most) + PAUSE, 3)
    parts = [(rows[0]["file"], 0.0, most, 1.0), (rows[1]["file"], at, most, 1.0)]
    return parts, f"{answer} is heard, and then {other}", [row["family"] for row in rows]


def _louder(answer: str, options: Sequence[str], split: str, rng: random.Random) -> Made:
    row = _one(split, rng, "instrument")
    most = (SECONDS - PAUSE) / 2
    at = round(min(row["seconds"], most) + PAUSE, 3)
    loud = (1.0, SOFT) if answer == "the first time" else (SOFT, 1.0)
    parts = [(row["file"], 0.0, most, loud[0]), (row["file"], at, most, loud[1])]
    words = "a loud sound and then a soft one" if loud[0] > loud[1] else "a soft sound and then a loud one"
    return parts, words, [row["family"]]


def _count(answer: str, options: Sequence[str], split: str, rng: random.Random) -> Made:
    """Hits in some of five places."""
    count = _pool("count", split).index(answer) + 1
    drums = ["a bass drum", "a cymbal", "a snare drum", "a tabla", "a tom"]
    row = _one(split, rng, "instrument", rng.choice(drums))
    places = sorted(rng.sample(range(5), count))
    parts = [(row["file"], round(0.4 * place + rng.uniform(0, 0.05), 3), SHORT, 1.0) for place in places]
    hits = "is heard once" if count == 1 else f"is heard {answer} times"
    return parts, f"{row['label']} {hits}", [row["family"]]


_MAKERS: dict[str, Callable[[str, Sequence[str], str, random.Random], Made]] = {
    "voice": _voice,
    "louder": _louder,
    "first": _first,
    "instrument": _instrument,
    "count": _count,
    "phrase": _spoken("phrase"),
    "sentence": _spoken("sentence"),
}


@lru_cache(maxsize=256)
def _clip(file: str) -> np.ndarray:
    return load(HERE / file, root=None).samples


# -------------------------------------------------------------------- what is said


def _completion(made: dict[str, Any], said: str, ask: str) -> str:
    """A chain says what is really heard, but in the one that chooses a wrong option."""
    if ask == "letter":
        return LETTERS[made["choices"].index(said)]
    if ask == "text":
        return said
    if ask == "tag":
        return f"<RESPONSE>{said}</RESPONSE>"
    heard = made["heard"] if said == made["answer"] else "it is hard to hear"
    plan = f"First listen, then compare with the {len(made['choices'])} options."
    why = f"Of {', '.join(made['choices'])} it fits {said}."
    if ask == "free":
        return chained(f"I listen: {heard}. {why} So it is {said}.", said)
    return structured(dict(zip(SECTIONS, (plan, f"{heard[0].upper()}{heard[1:]}.", why, f"It is {said}."))), said)


def main() -> None:
    """Write sample.jsonl beside this file, without sounds, which the generator mixes."""
    records = [record(i, ask="structured") for i in range(14)] + [question(i, split="heldout") for i in range(7)]
    lines = [json.dumps({k: v for k, v in made.items() if k != "sounds"}) + "\n" for made in records]
    (HERE / "sample.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
