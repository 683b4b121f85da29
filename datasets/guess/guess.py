"""Guess the number: a game in rounds, in which every guess is answered by higher or lower."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from mmrl.seeds import seed_of

HELD_OUT_SHARE = 0.1
PROMPT = (
    "I think of a whole number from {low} to {high}. Say one number in each turn, in <answer> </answer> tags, and "
    "I tell you whether mine is higher or lower."
)
_TRIES = 1000


def problem(
    index: int, seed: int = 0, sizes: Sequence[int] = (7, 15, 31), largest: int = 100, split: str = "train"
) -> dict:
    """Prompt number `index`: {id, prompt, low, high, secret, level, split}; the same for the same arguments.

    sizes: how many numbers there are to choose from, taken in turn; the level is how many guesses always suffice.
    largest: all numbers are from 1 to this. split: train or heldout; no game (low, high and secret) is in both.
    Raises ValueError where such a game is not found.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected train or heldout")
    size = sizes[index % len(sizes)]
    if not 1 <= size <= largest:
        raise ValueError(f"a size of {size} does not fit between 1 and largest={largest}")
    rng = random.Random(seed_of("guess", seed, split, size, largest, index))
    for _ in range(_TRIES):
        low = rng.randint(1, largest - size + 1)
        high, secret = low + size - 1, rng.randint(low, low + size - 1)
        held_out = seed_of("heldout", low, high, secret) < HELD_OUT_SHARE * 2**63
        if held_out == (split == "heldout"):
            return {
                "id": f"{split}-{index}",
                "prompt": PROMPT.format(low=low, high=high),
                "low": low,
                "high": high,
                "secret": secret,
                "level": size.bit_length(),
                "split": split,
            }
    raise ValueError(f"no {split} game of {size} numbers up to {largest} in {_TRIES} tries; widen `largest`")


def main() -> None:
    """Write sample.jsonl beside this file: 24 training and 8 held-out prompts."""
    records = [problem(i) for i in range(24)] + [problem(i, split="heldout") for i in range(8)]
    path = Path(__file__).with_name("sample.jsonl")
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main()
