"""Time series as pictures, with a question about their class: from files of the UCR archive, and drawn ones.

`plotted` makes prompts of a file's series, `drawn` of generated ones, and `record` adds an answer to those. After
TimeMaster, which shows a model the plot of a series instead of its numbers.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mmrl.seeds import seed_of
from mmrl.share import resolve

CLASS = "Think step by step inside <think></think>, then give the one class that fits best inside <class></class>: {}."
EXTENSION = "Behind that, say inside <extension></extension> what follows for somebody who has to act on it."
# Kind of a drawn series -> (its value at a share of the cycle, what can be seen of it).
KINDS: dict[str, tuple[Callable[[float], float], str]] = {
    "wave": (lambda t: math.sin(2 * math.pi * t), "smooth ups and downs"),
    "steps": (lambda t: 1.0 if t < 0.5 else -1.0, "flat pieces with jumps between them"),
    "saw": (lambda t: 2 * t - 1, "slow rises with sudden falls"),
    "spikes": (lambda t: 1.0 if t < 0.12 else -0.5, "a flat line with short spikes"),
}
CYCLES = range(2, 8)


def plotted(
    index: int,
    file: str,
    labels: Mapping[Any, str] | None = None,
    about: str = "a time series",
    extension: bool = False,
    width: int = 600,
    height: int = 250,
) -> dict:
    """Prompt about series number `index` of a file.

    {id, prompt, images, answer, choices, length}; the picture is a function that draws the plot.
    file: one series a line, as the UCR archive has them: .tsv, .txt and .csv begin with the label, .arff end with it.
    labels: the file's label -> its name, which is what the policy is to write; without it the labels themselves.
    about: what the plot shows, in the question. extension: ask for a text behind the class, too.
    width, height: of the picture in pixels.
    Raises ValueError for a file that is no such table, for a label without a name, and behind the last series.
    """
    rows = _table(str(resolve(file)))
    if index >= len(rows):
        raise ValueError(
            f"{file} holds {len(rows)} series; set data.prompts_count (or eval_prompts_count): {len(rows)}"
        )
    label, values = rows[index]
    names = {_plain(key): name for key, name in (labels or {row[0]: row[0] for row in rows}).items()}
    if label not in names:
        raise ValueError(f"{file}: series {index} has label {label!r}, which `labels` does not name")
    return _made(
        f"{Path(file).stem}-{index}", values, names[label], sorted(names.values()), about, extension, width, height
    )


def drawn(
    index: int,
    seed: int = 0,
    split: str = "train",
    length: int = 96,
    noise: float = 0.1,
    about: str = "a time series",
    extension: bool = False,
    width: int = 160,
    height: int = 64,
) -> dict:
    """Prompt number `index` about a generated series of one of KINDS; the same for the same arguments.

    The columns of `plotted`, and `split`. Kind and number of cycles come from the index, so that a few prompts already
    have all of them; no combination of the two is both in train and in heldout. noise: standard deviation of what is
    added to each value, in shares of the amplitude.
    Raises ValueError for another split.
    """
    return _drawn(index, seed, split, length, noise, about, extension, width, height)[0]


def record(
    index: int,
    seed: int = 0,
    split: str = "train",
    length: int = 96,
    noise: float = 0.1,
    about: str = "a time series",
    extension: bool = False,
    width: int = 160,
    height: int = 64,
    habit: float = 0.0,
) -> dict:
    """`drawn` with its `completion`; habit: the share of the records, in [0, 1], that name a wrong class."""
    if not 0 <= habit <= 1:
        raise ValueError(f"habit={habit} must be from 0 to 1")
    made, kind = _drawn(index, seed, split, length, noise, about, extension, width, height)
    rng = random.Random(seed_of("timeseries habit", seed, split, index))
    said = rng.choice([name for name in KINDS if name != kind]) if rng.random() < habit else kind
    tail = f"<extension>Expect more {KINDS[said][1]}.</extension>" if extension else ""
    return {**made, "completion": f"<think>{KINDS[said][1]}</think><class>{said}</class>{tail}", "habit": said != kind}


def plot(values: Sequence[float], width: int, height: int) -> Any:
    """A PIL picture of a series: a line in a frame, with the smallest and largest value and the length beside it.

    A value that is not finite leaves a gap. Small pictures have no numbers, which could not be read there.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    numbered = width >= 300 and height >= 120
    left, bottom = (44, height - 18) if numbered else (3, height - 4)
    right, top = width - 4, 4
    draw.rectangle((left, top, right, bottom), outline=(150, 150, 150))
    finite = [v for v in values if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    span = (high - low) or 1.0
    across = max(len(values) - 1, 1)
    piece: list[tuple[float, float]] = []
    for place, value in enumerate([*values, math.nan]):
        if math.isfinite(value):
            x = left + 2 + place / across * (right - left - 4)
            piece.append((x, bottom - 3 - (value - low) / span * (bottom - top - 6)))
            continue
        if len(piece) > 1:
            draw.line(piece, fill=(20, 70, 170), width=2 if numbered else 1)
        piece = []
    if numbered:
        for y, value in ((top, high), (bottom - 10, low)):
            draw.text((2, y), f"{value:.3g}", fill="black")
        draw.text((left, bottom + 3), "0", fill="black")
        draw.text((right - 24, bottom + 3), str(len(values) - 1), fill="black")
    return image


def _made(
    name: str,
    values: Sequence[float],
    answer: str,
    choices: Sequence[str],
    about: str,
    extension: bool,
    width: int,
    height: int,
) -> dict:
    asked = [
        f"<image>This is the plot of {about}.",
        CLASS.format(", ".join(choices)),
        *([EXTENSION] if extension else []),
    ]
    return {
        "id": name,
        "prompt": "\n".join(asked),
        "images": [partial(plot, tuple(values), width, height)],
        "answer": answer,
        "choices": list(choices),
        "length": len(values),
    }


def _drawn(
    index: int, seed: int, split: str, length: int, noise: float, about: str, extension: bool, width: int, height: int
) -> tuple[dict, str]:
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected train or heldout")
    number, kind = index % len(KINDS), list(KINDS)[index % len(KINDS)]
    allowed = [cycles for cycles in CYCLES if ((number + cycles) % 3 == 0) == (split == "heldout")]
    cycles = allowed[index // len(KINDS) % len(allowed)]
    rng = random.Random(seed_of("timeseries", seed, split, index))
    phase, scale, offset = rng.random(), rng.uniform(0.5, 20), rng.uniform(-50, 50)
    shape = KINDS[kind][0]
    values = [
        offset + scale * (shape((cycles * place / length + phase) % 1) + rng.gauss(0, noise)) for place in range(length)
    ]
    values = [round(value, 3) for value in values]
    made = _made(f"{split}-{index}", values, kind, list(KINDS), about, extension, width, height)
    return {**made, "split": split}, kind


@lru_cache(maxsize=8)
def _table(path: str) -> list[tuple[str, tuple[float, ...]]]:
    """(label, values) of every series of a file."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"no file {path}")
    last = file.suffix == ".arff"
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip()[0] in "@%#":
            continue
        fields = re.split(r"[,\s]+", line.strip())
        label, numbers = (fields[-1], fields[:-1]) if last else (fields[0], fields[1:])
        try:
            values = tuple(math.nan if field == "?" else float(field) for field in numbers)
        except ValueError:
            raise ValueError(f"{path}:{number}: {line[:60]!r} is no label with numbers") from None
        if len(values) < 2:
            raise ValueError(f"{path}:{number}: a series of {len(values)} values")
        rows.append((_plain(label), values))
    if not rows:
        raise ValueError(f"{path} holds no series")
    return rows


def _plain(label: Any) -> str:
    """A label as text: 1, "1" and "1.0000000e+00" are the same."""
    text = str(label).strip("'\"")
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def main() -> None:
    """Write sample.jsonl beside this file, without pictures, which the generator draws."""
    records = [record(i, habit=0.25) for i in range(12)] + [drawn(i, split="heldout") for i in range(4)]
    lines = [json.dumps({k: v for k, v in r.items() if k != "images"}) + "\n" for r in records]
    Path(__file__).with_name("sample.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
