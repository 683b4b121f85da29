"""Countdown: make a target of given numbers with + - * / and brackets. Every problem is made from a solution of it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from mmrl.seeds import seed_of

HELD_OUT_SHARE = 0.1
STYLES = {
    "words": "Using each of the numbers {numbers} exactly once, with + - * / and brackets, write an expression that "
    "equals {target}. Put the expression in <answer> </answer> tags.",
    "short": "{numbers}={target}:",
}
_TRIES = 10_000


def problem(
    index: int,
    seed: int = 0,
    sizes: Sequence[int] = (3, 4),
    largest: int = 25,
    largest_target: int = 100,
    split: str = "train",
    style: str = "words",
) -> dict:
    """Prompt number `index`: {id, prompt, numbers, target, answer, level, split}; the same for the same arguments.

    sizes: how many numbers, taken in turn; it is the level. largest: the numbers are from 1 to this.
    largest_target: the target is from 1 to this and none of the numbers. split: train or heldout; no problem (the
    numbers in any order, and the target) is in both. style: a key of STYLES. `answer` is one solution of many.
    Raises ValueError where such a problem is not found.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected train or heldout")
    if style not in STYLES:
        raise ValueError(f"style={style!r}: expected one of {', '.join(STYLES)}")
    size = sizes[index % len(sizes)]
    rng = random.Random(seed_of("countdown", seed, split, size, largest, largest_target, index))
    for _ in range(_TRIES):
        numbers = [rng.randint(1, largest) for _ in range(size)]
        found = _combined(numbers, rng)
        if found is None or found[0] > largest_target or found[0] in numbers:
            continue
        target, answer = found
        held_out = seed_of("heldout", *sorted(numbers), "->", target) < HELD_OUT_SHARE * 2**63
        if held_out == (split == "heldout"):
            written = (" " if style == "short" else ", ").join(map(str, numbers))
            return {
                "id": f"{split}-{index}",
                "prompt": STYLES[style].format(numbers=written, target=target),
                "numbers": numbers,
                "target": target,
                "answer": answer,
                "level": size,
                "split": split,
            }
    raise ValueError(
        f"no problem of {size} numbers from 1 to {largest} with a target up to {largest_target} in {_TRIES} tries; "
        "widen `largest` or `largest_target`"
    )


def _combined(numbers: list[int], rng: random.Random) -> tuple[int, str] | None:
    """(value, expression) of two random parts joined at a time until one is left; None where it is not 1 or more.

    Every value on the way is a whole number above 0.
    """
    parts = [(number, str(number)) for number in numbers]
    while len(parts) > 1:
        rng.shuffle(parts)
        (a, left), (b, right) = parts.pop(), parts.pop()
        if a < b:
            (a, left), (b, right) = (b, right), (a, left)
        ways = {"+": a + b, "-": a - b, "*": a * b}
        if a % b == 0:
            ways["/"] = a // b
        sign = rng.choice(sorted(way for way, value in ways.items() if value > 0))
        parts.append((ways[sign], f"({left}{sign}{right})"))
    value, expression = parts[0]
    return (value, expression[1:-1]) if value > 0 and len(numbers) > 1 else None


def main() -> None:
    """Write sample.jsonl beside this file: 24 training and 8 held-out prompts."""
    records = [problem(i) for i in range(24)] + [problem(i, split="heldout") for i in range(8)]
    path = Path(__file__).with_name("sample.jsonl")
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main()
