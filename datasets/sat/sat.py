"""SAT problems of graded difficulty, each made around a solution, after SATURN."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from mmrl.seeds import seed_of

HELD_OUT_SHARE = 0.1
_TRIES = 10_000
STYLES = {
    "words": "Find values of the {variables} variables x1 to x{variables} that satisfy the formula\n{formula}\nwhere ! "
    "is not, | is or, & is and. Answer with {variables} digits, 1 for true and 0 for false, x1 first, in "
    "\\boxed{{}}.",
    "short": "{formula}:",
}

Level = tuple[int, int, int]


def difficulty(literals: int, variables: int, clauses: int) -> float:
    """log2 k + 2 log2 l - n + k / n for n literals a clause, k variables, l clauses: SATURN's estimate."""
    return math.log2(variables) + 2 * math.log2(clauses) - literals + variables / literals


def problem(
    index: int,
    seed: int = 0,
    levels: Sequence[Level] = ((3, 5, 5),),
    split: str = "train",
    style: str = "words",
) -> dict:
    """Prompt number `index`; the same for the same arguments.

    {id, prompt, variables, clauses, answer, level, difficulty, split}. `clauses` are lists of signed variable
    numbers, `answer` the planted assignment as bits, x1 first, `level` the number of its level from 0.
    levels: (literals a clause, variables, clauses), taken in turn; SATURN starts a 1.5B model at (3, 5, 5).
    split: train or heldout; no set of clauses is in both. style: a key of STYLES.
    Raises ValueError for a level with more clauses than there are different ones.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected train or heldout")
    if style not in STYLES:
        raise ValueError(f"style={style!r}: expected one of {', '.join(STYLES)}")
    number = index % len(levels)
    literals, variables, count = level = tuple(levels[number])
    if not 1 <= literals <= variables or not 1 <= count <= math.comb(variables, literals) * (2**literals - 1):
        raise ValueError(f"level {level}: expected 1 <= literals <= variables, and clauses that can all be different")
    rng = random.Random(seed_of("sat", seed, split, *level, index))
    for _ in range(_TRIES):
        planted = [rng.random() < 0.5 for _ in range(variables)]
        clauses = _clauses(planted, literals, count, rng)
        key = sorted(sorted(clause) for clause in clauses)
        if (seed_of("heldout", key) < HELD_OUT_SHARE * 2**63) == (split == "heldout"):
            break
    else:
        raise ValueError(f"level {level} has too few formulas for the split {split!r}; take more variables or clauses")
    return {
        "id": f"{split}-{index}",
        "prompt": STYLES[style].format(variables=variables, formula=formula(clauses)),
        "variables": variables,
        "clauses": clauses,
        "answer": "".join("1" if value else "0" for value in planted),
        "level": number,
        "difficulty": round(difficulty(*level), 4),
        "split": split,
    }


def formula(clauses: Sequence[Sequence[int]]) -> str:
    """(x1 | !x3) & (!x2 | x3) for [[1, -3], [-2, 3]]."""
    written = (" | ".join(f"{'!' if x < 0 else ''}x{abs(x)}" for x in clause) for clause in clauses)
    return " & ".join(f"({clause})" for clause in written)


def _clauses(planted: list[bool], literals: int, count: int, rng: random.Random) -> list[list[int]]:
    """`count` different clauses; which of a clause's literals are true under the plant is drawn, never none."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        chosen = rng.sample(range(len(planted)), literals)
        pattern = rng.randrange(1, 2**literals)
        clause = [
            (v + 1) if planted[v] == bool(pattern >> place & 1) else -(v + 1) for place, v in enumerate(sorted(chosen))
        ]
        found[tuple(clause)] = None
    return [list(clause) for clause in found]


def main() -> None:
    """Write sample.jsonl beside this file: 24 training and 8 held-out prompts of three levels."""
    levels: list[Level] = [(3, 5, 5), (3, 5, 6), (3, 5, 13)]
    records = [problem(i, levels=levels) for i in range(24)]
    records += [problem(i, levels=levels, split="heldout") for i in range(8)]
    path = Path(__file__).with_name("sample.jsonl")
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main()
