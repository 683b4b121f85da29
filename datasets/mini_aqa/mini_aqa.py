"""Questions about recorded clips, with options of one kind, that cannot be answered without hearing.

`question` makes prompts, `record` adds answers to learn from: chains of thought in sections, free ones, or none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrl.importing import import_file
from mmrl.sections import SECTIONS, chained, structured
from mmrl.seeds import seed_of

HERE = Path(__file__).resolve().parent
heard, mixing = import_file(HERE / "heard.py"), import_file(HERE / "mixing.py")
LETTERS = "ABCDEFGHI"

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
SOUNDS = ("own", "shuffled")


def question(
    index: int,
    seed: int = 0,
    split: str = "train",
    kinds: Sequence[str] = tuple(KINDS),
    ask: str = "letter",
    most: int = MOST,
    vary: float = 0.0,
    sounds: str = "own",
) -> dict[str, Any]:
    """Prompt number `index`, the same for the same arguments.

    {id, prompt, sounds, choices, answer, letter, kind, task, level, families, heard, split}; the sound is a function
    that mixes it. kinds: of KINDS, in turns. ask: how the answer is wanted, a key of _ASKED. most: options at most.
    vary: how far clips are from the recordings, in [0, 1]; see `mixing.varied`. sounds: own, or for a control shuffled:
    a question is asked with the sound of another one of its kind.

    Of the n questions of a kind that follow one another every option is right once, and every place holds the right
    one once: whatever a policy does without hearing, of those n it is right about one on average.
    Raises ValueError for another split, kind, `ask` or `sounds`, and for `vary` out of its range.
    """
    return _made(index, seed, split, kinds, ask, most, vary, sounds)[0]


def record(
    index: int,
    seed: int = 0,
    split: str = "train",
    kinds: Sequence[str] = tuple(KINDS),
    ask: str = "letter",
    most: int = MOST,
    vary: float = 0.0,
    sounds: str = "own",
    habit: float = 0.0,
) -> dict[str, Any]:
    """`question` with its `completion`, in the form that `ask` wants. habit: the share of the records, in [0, 1], that
    choose a wrong option (column `habit`)."""
    if not 0 <= habit <= 1:
        raise ValueError(f"habit={habit} must be from 0 to 1")
    made, rng = _made(index, seed, split, kinds, ask, most, vary, sounds)
    wrong = rng.random() < habit
    said = rng.choice([c for c in made["choices"] if c != made["answer"]]) if wrong else made["answer"]
    return {**made, "completion": _completion(made, said, ask), "habit": wrong}


# -------------------------------------------------------------------- what is asked


def _made(
    index: int, seed: int, split: str, kinds: Sequence[str], ask: str, most: int, vary: float, sounds: str
) -> tuple[dict[str, Any], random.Random]:
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected train or heldout")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds={list(kinds)}: expected some of {', '.join(KINDS)}")
    if ask not in _ASKED:
        raise ValueError(f"ask={ask!r}: expected {', '.join(_ASKED)}")
    if sounds not in SOUNDS:
        raise ValueError(f"sounds={sounds!r}: expected {', '.join(SOUNDS)}")
    if not 0 <= vary <= 1:
        raise ValueError(f"vary={vary} must be from 0 to 1")
    if most < 2:
        raise ValueError(f"most={most}: a question has two options or more")
    kind, number = kinds[index % len(kinds)], index // len(kinds)
    options, turn, block = _options(kind, number, seed, split, most)
    answer = options[turn]
    heard_in = number if sounds == "own" else _other(kind, number, seed, split)
    told, turn_told, _ = _options(kind, heard_in, seed, split, most)
    rng = random.Random(seed_of("mini_aqa", seed, split, kind, number))
    parts, words, families = heard.MAKERS[kind](told[turn_told], told, heard.Draw(split, rng, vary))
    shown = _placed(options, turn, block, rng)
    asked, task, level = KINDS[kind]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, shown)]
    made = {
        "id": f"{split}-{kind}-{number}",
        "prompt": "\n".join([f"<audio>{asked}", *lines, _ASKED[ask]]),
        "sounds": [mixing.sound(parts, rng, vary)],
        "choices": shown,
        "answer": answer,
        "letter": LETTERS[shown.index(answer)],
        "kind": kind,
        "task": task,
        "level": level,
        "families": families,
        "heard": words,
        "split": split,
    }
    return made, rng


def _other(kind: str, number: int, seed: int, split: str) -> int:
    """Number of a question of a kind that has nothing to do with this one."""
    return random.Random(seed_of("mini_aqa shuffled", seed, split, kind, number)).randrange(1 << 30)


def _options(kind: str, number: int, seed: int, split: str, most: int) -> tuple[list[str], int, random.Random]:
    """(the options of a block of questions, which of them is right in this one, what else is drawn for the block)."""
    pool = heard.pool(kind, split)
    size = min(most, len(pool))
    block = random.Random(seed_of("mini_aqa block", seed, split, kind, number // size))
    return block.sample(pool, size), number % size, block


def _placed(options: Sequence[str], turn: int, block: random.Random, rng: random.Random) -> list[str]:
    """The options as they are shown: over a block the right one stands in each place once."""
    place = block.sample(range(len(options)), len(options))[turn]
    others = [option for n, option in enumerate(options) if n != turn]
    rng.shuffle(others)
    return [*others[:place], options[turn], *others[place:]]


# -------------------------------------------------------------------- what is said


def _completion(made: dict[str, Any], said: str, ask: str) -> str:
    """A chain says what is really heard, but in the one that chooses a wrong option."""
    if ask == "letter":
        return LETTERS[made["choices"].index(said)]
    if ask == "text":
        return said
    if ask == "tag":
        return f"<RESPONSE>{said}</RESPONSE>"
    words = made["heard"] if said == made["answer"] else "it is hard to hear"
    plan = f"First listen, then compare with the {len(made['choices'])} options."
    why = f"Of {', '.join(made['choices'])} it fits {said}."
    if ask == "free":
        return chained(f"I listen: {words}. {why} So it is {said}.", said)
    return structured(dict(zip(SECTIONS, (plan, f"{words[0].upper()}{words[1:]}.", why, f"It is {said}."))), said)


def corpus() -> list[str]:
    """Lines that a tokenizer learns its words from: questions, answers of every form, and what Qwen's template adds."""
    made = [record(i, ask=ask) for ask in _ASKED for i in range(35)]
    said = [line for one in made for line in f"{one['prompt']}\n{one['completion']}".splitlines()]
    return ["system", "You are a helpful assistant.", "user", "assistant"] * 20 + said


def main() -> None:
    """Write sample.jsonl, without sounds, which the generator mixes, and corpus.txt beside this file."""
    (HERE / "corpus.txt").write_text("\n".join(corpus()) + "\n", encoding="utf-8")
    records = [record(i, ask="structured") for i in range(14)] + [question(i, split="heldout") for i in range(7)]
    lines = [json.dumps({k: v for k, v in made.items() if k != "sounds"}) + "\n" for made in records]
    (HERE / "sample.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
