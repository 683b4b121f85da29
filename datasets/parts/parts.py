"""Mechanical parts in words, in cadquery code, and as exact numbers: prompts and supervised records from an index.

Nothing is licensed and nothing is built: the truth is a program and closed forms. Run, it writes sample.jsonl.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrl.importing import import_file
from mmrl.seeds import seed_of

families = import_file(Path(__file__).with_name("families.py"))
FAMILIES, Slips = families.FAMILIES, families.Slips

UNSEEN = ("nut", "slot")  # families of the split `unseen` alone
SEEN = tuple(name for name in FAMILIES if name not in UNSEEN)
SPLITS = ("train", "heldout", "unseen")
HELD_OUT_SHARE = 0.1
IMPORT = "import cadquery as cq\n"
_PLACED = " It stands on the plane z = 0, centred on the z axis{}."
_LENGTH = ", its length along x"  # of parts that have one; their width is then along y
_TRIES = 10_000


def part(
    index: int,
    seed: int = 0,
    split: str = "train",
    only: Sequence[str] | None = None,
    placed: bool = True,
) -> dict[str, Any]:
    """Prompt number `index`, the same for the same arguments: {id, prompt, description, code, unit, gt, family, split}.

    gt: {code, volume (mm^3), bbox (xmin, ymin, zmin, xmax, ymax, zmax in mm), n_solids}. split: train, or heldout (the
    same families with other numbers), or unseen (families that neither of them has); none shares a part with another,
    whatever seed and index. only: families in turn, of those of the split. placed: the words, and the description, say
    where the part stands and along which axis its length is.
    Raises ValueError for a split or a family that there is not.
    """
    name = _family(index, split, only)
    rng = random.Random(seed_of("parts", seed, split, name, index))
    numbers = _numbers(name, split, rng)
    shape = FAMILIES[name]
    code = IMPORT + shape.code(numbers, Slips()) + "\n"
    x, y, z = shape.size(numbers)
    return {
        "id": f"{split}-{index}",
        "prompt": rng.choice(shape.words).format(**numbers) + (stands(numbers) if placed else ""),
        "description": structured(name, numbers) + (frame(numbers) if placed else ""),
        "code": code,
        "unit": "mm",
        "gt": {
            "code": code,
            "volume": shape.volume(numbers),
            "bbox": [-x / 2, -y / 2, 0.0, x / 2, y / 2, float(z)],
            "n_solids": 1,
        },
        "family": name,
        "numbers": numbers,
        "split": split,
    }


def program(
    index: int,
    seed: int = 0,
    split: str = "train",
    only: Sequence[str] | None = None,
    placed: bool = True,
    slips: float = 0.0,
    think: bool = False,
) -> dict[str, Any]:
    """`part` with its `completion`, a program, and `mistakes`: the names of the wrong turns that it takes.

    slips: share in [0, 1] of the records with a mistake of each kind (see families.Slips), where the family has a place
    for it; above one half, the mistake is what a model that learns from such records does by default. think: a chain of
    thought in <think></think> stands before the program; it is right even where the program is not.
    """
    if not 0 <= slips <= 1:
        raise ValueError(f"slips={slips} must be from 0 to 1")
    record = part(index, seed, split, only, placed)
    rng = random.Random(seed_of("slips", seed, split, index))
    drawn = {kind: rng.random() < slips for kind in ("parameter", "frame")}
    shape = FAMILIES[record["family"]]
    wrong = [kind for kind in shape.slips if drawn[kind]]
    code = shape.code(record["numbers"], Slips(**dict.fromkeys(wrong, True)))
    said = f"<think>{thought(record)}</think>\n" if think else ""
    return {**record, "completion": f"{said}{IMPORT}{code}", "mistakes": wrong}


def structured(family: str, numbers: dict[str, int]) -> str:
    """The part as one line of a name and its numbers: `plate(length=60, width=30, thickness=5, hole=6)`."""
    return f"{family}({', '.join(f'{name}={value}' for name, value in numbers.items())})"


def stands(numbers: dict[str, int]) -> str:
    """The sentence that says where a part is."""
    return _PLACED.format(_LENGTH if "length" in numbers else "")


def frame(numbers: dict[str, int]) -> str:
    """The same as the end of the structured line: ` on(z=0, centre=z_axis, length=x)`."""
    return f" on(z=0, centre=z_axis{', length=x' if 'length' in numbers else ''})"


def thought(record: dict[str, Any]) -> str:
    """A chain of thought about a part, from its numbers."""
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in record["numbers"].items())
    return (
        f"A {record['family']}: {told}, in mm. It stands on z = 0, so the outline is extruded upwards from the XY "
        "plane. A circle takes half of its diameter."
    )


def _family(index: int, split: str, only: Sequence[str] | None) -> str:
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected {', '.join(SPLITS)}")
    known = UNSEEN if split == "unseen" else SEEN
    chosen = known if only is None else tuple(only)
    wrong = [name for name in chosen if name not in known]
    if wrong or not chosen:
        raise ValueError(f"only={list(chosen)}: the split {split!r} has {', '.join(known)}")
    return chosen[index % len(chosen)]


def _numbers(name: str, split: str, rng: random.Random) -> dict[str, int]:
    """The first numbers drawn that belong to the split: a tenth of all, by their hash, is held out."""
    for _ in range(_TRIES):
        numbers = FAMILIES[name].draw(rng)
        held_out = seed_of("heldout", structured(name, numbers)) < HELD_OUT_SHARE * 2**63
        if split == "unseen" or held_out == (split == "heldout"):
            return numbers
    raise ValueError(f"family {name!r} has too few parts for the split {split!r}")


def main() -> None:
    """Write sample.jsonl beside this file: 36 training records, 12 held-out ones and 4 of families not seen; and
    words.txt, prompts and programs of training records a line each, for tokenizers to learn from."""
    records = [program(i, slips=0.25) for i in range(36)]
    records += [program(i, split="heldout") for i in range(12)] + [program(i, split="unseen") for i in range(4)]
    here = Path(__file__).parent
    (here / "sample.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    texts = [program(i, slips=0.25, think=i % 4 == 0) for i in range(8 * len(SEEN))]
    lines = [line for text in texts for line in [text["prompt"], *text["completion"].splitlines()]]
    (here / "words.txt").write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
