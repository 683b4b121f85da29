"""Arithmetic with written steps, for character-level models of a million parameters.

Everything is made here, from the index: nothing to license, no limit on the amount. A prompt is "37+58+26=", its worked
solution one line for each operation, digit by digit as on paper, and "#" before the final answer:

    37+58 7+8=15 3+5+1=9 =95
    95+26 5+6=11 9+2+1=12 =121
    #121
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from mmrl.seeds import seed_of

VOCABULARY = "\n #()*+-0123456789="
LEVELS = {1: "a+b", 2: "a+b+c", 3: "a+b*c or b*c+a, c of one digit", 4: "(a+b)*c-d, c of one digit"}
HELD_OUT_SHARE = 0.1
_TRIES = 10_000

Step = tuple[int, str, int]  # left, operation, right; a right or left of -1 is the result of the step before
_BEFORE = -1


def problem(index: int, seed: int = 0, levels: Sequence[int] = (1, 2), split: str = "train", digits: int = 2) -> dict:
    """Prompt number `index`: {id, prompt, answer, level, split}, the same for the same arguments.

    levels: keys of LEVELS, taken in turn. split: train or heldout; no problem is in both, whatever seed and index.
    digits: of the numbers, but for c.
    """
    text, _, answer, level = _draw(index, seed, levels, split, digits)
    return {"id": f"{split}-{index}", "prompt": f"{text}=", "answer": str(answer), "level": level, "split": split}


def worked(
    index: int,
    seed: int = 0,
    levels: Sequence[int] = (1, 2),
    split: str = "train",
    digits: int = 2,
    mistakes: float = 0.0,
    forgets: float = 0.0,
) -> dict:
    """`problem` with its `completion`, a worked solution, and `mistake`: whether its final answer is wrong.

    mistakes: share of the records in [0, 1] in which one digit's step is off by one and what follows goes on from
    there, so that the final answer is wrong too. `answer` is always the right one.
    forgets: share of the carries in [0, 1] that are left out where they are due, a pupil's habit: above one half, it
    is what a model that learns from such records does by default.
    """
    for name, share in (("mistakes", mistakes), ("forgets", forgets)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} must be from 0 to 1")
    _, steps, answer, _ = _draw(index, seed, levels, split, digits)
    rng = random.Random(seed_of("mistake", seed, split, index))
    wrong = rng.random() < mistakes
    habit = random.Random(seed_of("forget", seed, split, index))
    lines = _lines(steps, rng if wrong else None, lambda: habit.random() < forgets)
    mistake = lines.rpartition("#")[2] != str(answer)
    return {**problem(index, seed, levels, split, digits), "completion": lines, "mistake": mistake}


def _draw(index: int, seed: int, levels: Sequence[int], split: str, digits: int) -> tuple[str, list[Step], int, int]:
    """(text, steps, answer, level) of the first problem drawn for the index that belongs to the split."""
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected train or heldout")
    level = levels[index % len(levels)]
    if level not in LEVELS:
        raise ValueError(f"level {level!r}: expected one of {', '.join(map(str, LEVELS))}")
    rng = random.Random(seed_of("arithmetic", seed, split, level, digits, index))
    for _ in range(_TRIES):
        text, key, steps, answer = _problem(level, digits, rng)
        held_out = seed_of("heldout", key) < HELD_OUT_SHARE * 2**63
        if held_out == (split == "heldout") and answer >= 0:
            return text, steps, answer, level
    raise ValueError(
        f"level {level} with digits={digits} has too few problems for the split {split!r}; take more digits"
    )


def _problem(level: int, digits: int, rng: random.Random) -> tuple[str, str, list[Step], int]:
    """(text, key, steps, answer); sums that differ only in the order of their numbers have the same key."""
    a, b, d = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(3))
    c = rng.randrange(2, 10)
    if level == 1:
        return f"{a}+{b}", f"{min(a, b)}+{max(a, b)}", [(a, "+", b)], a + b
    if level == 2:
        key = "+".join(map(str, sorted((a, b, d))))
        return f"{a}+{b}+{d}", key, [(a, "+", b), (_BEFORE, "+", d)], a + b + d
    if level == 3:
        if rng.random() < 0.5:
            return f"{a}+{b}*{c}", f"{a}+{b}*{c}", [(b, "*", c), (a, "+", _BEFORE)], a + b * c
        return f"{b}*{c}+{a}", f"{a}+{b}*{c}", [(b, "*", c), (_BEFORE, "+", a)], a + b * c
    a, b = min(a, b), max(a, b)
    return (
        f"({a}+{b})*{c}-{d}",
        f"({a}+{b})*{c}-{d}",
        [(a, "+", b), (_BEFORE, "*", c), (_BEFORE, "-", d)],
        (a + b) * c - d,
    )


def _never() -> bool:
    return False


def _lines(steps: list[Step], rng: random.Random | None, forgets: Callable[[], bool] = _never) -> str:
    """The worked solution; with `rng`, one digit's step of one line, drawn from all of them, is off by one.

    forgets: asked at every carry whether it is left out.
    """
    values: list[int] = []
    for left, operation, right in steps:
        left, right = _filled(left, right, values)
        values.append(_column_by_column(left, operation, right)[1])
    place = None
    if rng is not None:
        widths = [len(str(max(_filled(left, right, values[:n])))) for n, (left, _, right) in enumerate(steps)]
        place = rng.choice([(n, column) for n, width in enumerate(widths) for column in range(width)])
    lines: list[str] = []
    values = []
    for number, (left, operation, right) in enumerate(steps):
        left, right = _filled(left, right, values)
        column = place[1] if place is not None and place[0] == number else None
        columns, value = _column_by_column(left, operation, right, column, rng, forgets)
        lines.append(f"{left}{operation}{right} {columns} ={value}")
        values.append(value)
    return "\n".join([*lines, f"#{values[-1]}"])


def _filled(left: int, right: int, values: list[int]) -> tuple[int, int]:
    return (values[-1] if left == _BEFORE else left, values[-1] if right == _BEFORE else right)


def _column_by_column(
    left: int,
    operation: str,
    right: int,
    wrong: int | None = None,
    rng: random.Random | None = None,
    forgets: Callable[[], bool] = _never,
) -> tuple[str, int]:
    """(columns as written, result) of left + right, left - right >= 0, or left times one digit; lowest digit first.

    wrong: the column whose result is off by one. forgets: asked at every carry whether it is left out.
    """
    tops, bottoms = str(left)[::-1], str(right)[::-1]
    width = len(tops) if operation == "*" else max(len(tops), len(bottoms))
    written, digits, carry = [], [], 0
    for column in range(width):
        top = int(tops[column]) if column < len(tops) else 0
        if carry and forgets():
            carry = 0
        bottom = right if operation == "*" else int(bottoms[column]) if column < len(bottoms) else 0
        if operation == "-":
            borrow = top - carry < bottom
            found = top + 10 * borrow - carry - bottom
            terms = f"{top + 10 * borrow}{f'-{carry}' if carry else ''}-{bottom}"
        else:
            found = (top * bottom if operation == "*" else top + bottom) + carry
            terms = f"{top}{operation}{bottom}{f'+{carry}' if carry else ''}"
        if column == wrong and rng is not None:
            found += -1 if found and (found % 10 == 9 or rng.random() < 0.5) else 1
        written.append(f"{terms}={found}")
        carry = int(borrow) if operation == "-" else found // 10
        digits.append(found % 10)
    total = sum(digit * 10**n for n, digit in enumerate(digits))
    if operation != "-":
        total += carry * 10**width
    return " ".join(written), total


def main() -> None:
    """Write sample.jsonl beside this file: 48 training and 16 held-out records of all levels."""
    records = [worked(i, levels=tuple(LEVELS), split="train", mistakes=0.25) for i in range(48)]
    records += [worked(i, levels=tuple(LEVELS), split="heldout") for i in range(16)]
    path = Path(__file__).with_name("sample.jsonl")
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main()
