"""Pairs of pictures for a caption of `scenes`, one of which keeps more of its claims: for reward models of pictures.

A picture is a list of objects, of which some are flawed as those of a half-trained model are: of another colour or
shape, one too many or too few, elsewhere, or drawn so that they are neither one thing nor the other. How much of its
caption a picture keeps is counted on that list, so that labels need no pixels and pictures are drawn only when they are
looked at. `pair` makes pairs, `record` supervised records of what is to be seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mmrl.importing import import_file
from mmrl.seeds import seed_of

scenes = import_file(Path(__file__).resolve().parents[1] / "scenes" / "scenes.py")

UNCLEAR = "unclear"
# What may be wrong: with what the caption says, or with how an object is drawn.
MISREAD = ("count", "colour", "shape", "place")
DRAWN = ("extra", "missing", "recoloured", "reshaped", "muddy", "melted", "pale", "merged")
FLAWS = (*MISREAD, *DRAWN)
TASKS = ("one", "cells", "caption")
APART = 0.1  # share of the side by which the centres of a relation must differ (rewards/composition.py)
# Colours whose middle is neither. Red and yellow make an orange that passes as a pale red.
_MUDDY = {"red": ("green", "blue"), "green": ("red", "blue"), "blue": ("red", "green"), "yellow": ("blue",)}
_SCALE = 4  # pixels drawn for one that is shown
_CELLS = 3  # a side, in `record`
_CENTROID = 0.23  # of a triangle, below the middle of its box, in radii


@dataclass(frozen=True)
class Drawn:
    """One object: place and radius in pixels of a picture of 40, and what is wrong with how it is drawn."""

    colour: str
    shape: str
    x: float
    y: float
    r: float
    flaw: str = ""
    other: str = ""
    amount: float = 0.0

    @property
    def seen(self) -> tuple[str, str]:
        """(colour, shape) that somebody would name."""
        return (UNCLEAR, UNCLEAR) if self.flaw else (self.colour, self.shape)

    @property
    def centre(self) -> tuple[float, float]:
        return self.x, self.y + (_CENTROID * self.r if self.shape == "triangle" else 0.0)


@dataclass(frozen=True)
class Picture:
    """Draws itself: RGB, `size` pixels a side."""

    objects: tuple[Drawn, ...]
    size: int = scenes.SIZE

    def __call__(self) -> Image.Image:
        side = self.size * _SCALE
        canvas = Image.new("RGB", (side, side), scenes.BACKGROUND)
        for item in self.objects:
            canvas.paste(_colour(item), (0, 0), _mask(item, side))
        return canvas.resize((self.size, self.size), Image.Resampling.BOX)


def pair(
    index: int,
    seed: int = 0,
    split: str = "train",
    flaws: Sequence[str] = FLAWS,
    most: int = 3,
    claims: int = 2,
    close: float = 0.5,
    labels: str = "true",
    lazy: bool = True,
) -> dict:
    """Pair number `index`: the columns are in the README beside this file.

    split: of the captions, as `scenes` has it. flaws: those that occur. most: flaws of a picture. claims: of a caption,
    at most; of one claim there are 36 captions, all of split train. close: share of the pairs whose second picture is
    the first one with one more flaw; the others have nothing but their caption in common.
    labels: true, or shuffled: `shares` prefer either picture. lazy: pictures as functions without arguments, which draw
    them; otherwise PIL.
    """
    _check(flaws, most, close, labels)
    if claims not in (1, 2):
        raise ValueError(f"claims={claims}: expected 1 or 2")
    rng = random.Random(seed_of("judged_pictures", seed, split, index))
    for _ in range(100):
        scene = _scene(split, claims, rng)
        near = rng.random() < close
        better, names = _picture(scene, rng.choices(flaws, k=rng.randint(0, most - 1)), rng)
        last = rng.choices(flaws, k=1 if near else rng.randint(1, most))
        worse, told = _flawed(scene, better, last, rng) if near else _picture(scene, last, rng)
        values = [truth(objects, scene["claims"], scene["relation"]) for objects in (better, worse)]
        if values[0] != values[1]:
            break
    else:
        raise ValueError(f"flaws={list(flaws)}: no two pictures of which one is truer")
    if values[0] < values[1]:
        better, worse, told, values = worse, better, names, values[::-1]
    first = rng.random() < 0.5
    preferred = 0 if first else 1
    if labels == "shuffled":
        preferred = rng.randrange(2)
    shown = [Picture(objects) for objects in ((better, worse) if first else (worse, better))]
    return {
        "id": f"{split}-{seed}-{index}",
        "prompt": scene["prompt"],
        "candidates": [{"answer": "", "images": [picture if lazy else picture()]} for picture in shown],
        "shares": [float(i == preferred) for i in range(2)],
        "category": told[-1] if told else "none",
        "near": near,
        "truth": values if first else values[::-1],
        "claims": scene["claims"],
        "relation": scene["relation"],
        "split": split,
    }


def record(
    index: int,
    seed: int = 0,
    split: str = "train",
    task: str | Sequence[str] = ("cells", "caption"),
    flaws: Sequence[str] = FLAWS,
    most: int = 3,
    lazy: bool = True,
) -> dict:
    """A picture and, as `completion`, what is to be seen: in each of nine cells (task cells, with up to `most` of the
    flaws), the caption of a picture without a flaw (task caption), or the only object, anywhere (task one). Several
    tasks are taken in turn."""
    _check(flaws, most, 0.0, "true")
    task = task if isinstance(task, str) else task[index % len(task)]
    if task not in TASKS:
        raise ValueError(f"task={task!r}: expected one of {', '.join(TASKS)}")
    rng = random.Random(seed_of("judged_pictures record", seed, split, index))
    scene = _scene(split, 2, rng)
    wrong = rng.choices(flaws, k=rng.randint(0, most)) if task == "cells" else []
    objects, _ = _picture(scene, wrong, rng)
    if task == "one":
        x, y = rng.uniform(6.5, 33.5), rng.uniform(6.5, 33.5)
        objects = (replace(objects[0], x=x, y=y),)
    picture = Picture(objects)
    said = {"one": " ".join(objects[0].seen), "cells": cells(objects), "caption": scene["prompt"]}[task]
    return {
        "id": f"{split}-{seed}-{index}",
        "prompt": f"<image>{'cells' if task == 'cells' else ''}",
        "images": [picture if lazy else picture()],
        "completion": said,
        "task": task,
        "split": split,
    }


def truth(objects: Sequence[Drawn], claims: Sequence[dict], relation: str | None) -> float:
    """Share of the caption's claims that these objects keep, in [0, 1]: those of `composition.follows`."""
    colours = [item.seen[0] for item in objects]
    these = [[item for item in objects if item.seen == (c["colour"], c["shape"])] for c in claims]
    kept = [c["colour"] in colours for c in claims]
    kept += [bool(found) for found in these]
    kept += [len(found) == c["count"] for found, c in zip(these, claims)]
    kept.append(any(these) and sum(map(len, these)) == len(objects))
    if relation:
        axis = 0 if relation in ("left of", "right of") else 1
        one, two = these if relation in ("left of", "above") else these[::-1]
        limit = APART * scenes.SIZE
        kept.append(all(a.centre[axis] + limit < b.centre[axis] for a in one for b in two) and all(these))
    return sum(kept) / len(kept)


def cells(objects: Sequence[Drawn]) -> str:
    """What is in each of nine cells, row by row: "none, red circle, ...". Of two in one cell the first is told."""
    told = ["none"] * _CELLS**2
    for item in reversed(objects):
        column, row = (min(int(at * _CELLS / scenes.SIZE), _CELLS - 1) for at in item.centre)
        told[row * _CELLS + column] = UNCLEAR if item.flaw else " ".join(item.seen)
    return ", ".join(told)


def _check(flaws: Sequence[str], most: int, close: float, labels: str) -> None:
    unknown = [name for name in flaws if name not in FLAWS]
    if unknown or not flaws:
        raise ValueError(f"flaws={unknown or list(flaws)}: expected some of {', '.join(FLAWS)}")
    if most < 1:
        raise ValueError(f"most={most} must be 1 or more")
    if not 0 <= close <= 1:
        raise ValueError(f"close={close} must be from 0 to 1")
    if labels not in ("true", "shuffled"):
        raise ValueError(f"labels={labels!r}: expected true or shuffled")


@cache
def _scenes(split: str, claims: int) -> list[dict]:
    found = [scene for scene in scenes.all_scenes() if scene["split"] == split and len(scene["claims"]) <= claims]
    if not found:
        raise ValueError(f"split={split!r}, claims={claims}: expected train or heldout; single claims are all in train")
    return found


def _scene(split: str, claims: int, rng: random.Random) -> dict:
    """One of the split; of train's every seventh is a single phrase, of which there are few."""
    phrases = _scenes("train", 1)
    return rng.choice(phrases if split == "train" and rng.random() < 0.15 else _scenes(split, claims))


def _picture(scene: dict, flaws: Sequence[str], rng: random.Random) -> tuple[tuple[Drawn, ...], list[str]]:
    """(objects of a new picture of the scene with these flaws, the flaws that could be made)."""
    claims, relation = [dict(claim) for claim in scene["claims"]], scene["relation"]
    told = [flaw for flaw in flaws if flaw in MISREAD and (flaw != "place" or relation)]
    for flaw in told:
        claim = rng.choice(claims)
        if flaw == "place":
            relation = rng.choice([name for name in scenes.RELATIONS if name != relation])
        else:
            choices = {"count": scenes.COUNTS.values(), "colour": scenes.COLOURS, "shape": scenes.SHAPES}[flaw]
            claim[flaw] = rng.choice([value for value in choices if value != claim[flaw]])
    objects, also = _flawed(scene, _laid(claims, relation, rng), [f for f in flaws if f in DRAWN], rng)
    return objects, told + also


def _laid(claims: Sequence[dict], relation: str | None, rng: random.Random) -> tuple[Drawn, ...]:
    """Objects where `scenes.draw` puts them."""
    halves = scenes.HALVES[relation]
    layout = np.random.default_rng(rng.getrandbits(63))
    laid = []
    for claim, box in zip(claims, halves):
        r = rng.uniform(4.6, 5.4)
        for x, y in scenes.centres(claim["count"], box, r, layout):
            laid.append(Drawn(claim["colour"], claim["shape"], float(x), float(y), r))
    return tuple(laid)


def _flawed(
    scene: dict, objects: tuple[Drawn, ...], flaws: Sequence[str], rng: random.Random
) -> tuple[tuple[Drawn, ...], list[str]]:
    """(the objects with these flaws, the flaws that could be made). What misreads the caption lays them anew."""
    if any(flaw in MISREAD for flaw in flaws):
        return _picture(scene, flaws, rng)
    made, told = list(objects), []
    for flaw in flaws:
        whole = [n for n, item in enumerate(made) if not item.flaw]
        if flaw == "extra":
            if (place := _free(made, rng)) is None:
                continue
            shown = (rng.choice(list(scenes.COLOURS)), rng.choice(scenes.SHAPES))
            made.append(Drawn(*shown, *place, rng.uniform(4.6, 5.4)))
        elif not whole or (flaw == "missing" and len(made) == 1):
            continue
        elif flaw == "missing":
            made.pop(rng.choice(whole))
        else:
            number = rng.choice(whole)
            made[number] = _spoilt(made[number], flaw, rng)
        told.append(flaw)
    return tuple(made), told


def _spoilt(item: Drawn, flaw: str, rng: random.Random) -> Drawn:
    if flaw == "recoloured":
        return replace(item, colour=rng.choice([c for c in scenes.COLOURS if c != item.colour]))
    if flaw == "reshaped":
        return replace(item, shape=rng.choice([s for s in scenes.SHAPES if s != item.shape]))
    if flaw == "muddy":
        return replace(item, flaw=flaw, other=rng.choice(_MUDDY[item.colour]), amount=rng.uniform(0.4, 0.6))
    if flaw == "melted":  # a circle and a square have a middle that passes as either
        other = rng.choice(["circle", "square"]) if item.shape == "triangle" else "triangle"
        return replace(item, flaw=flaw, other=other, amount=rng.uniform(0.4, 0.6))
    if flaw == "pale":
        return replace(item, flaw=flaw, amount=rng.uniform(0.56, 0.68))
    return replace(item, flaw=flaw, amount=rng.choice([-1.2, 1.2]))


def _free(objects: Sequence[Drawn], rng: random.Random) -> tuple[float, float] | None:
    """A place that touches no object, or None."""
    for _ in range(20):
        x, y = rng.uniform(6.5, 33.5), rng.uniform(6.5, 33.5)
        if all((item.x - x) ** 2 + (item.y - y) ** 2 > 13.5**2 for item in objects):
            return x, y
    return None


def _mask(item: Drawn, side: int) -> Image.Image:
    """[side, side] coverage of an object, 0 to 255."""
    mask = _filled(item, item.shape, side)
    if item.flaw == "melted":
        both = Image.blend(mask, _filled(item, item.other, side), item.amount)
        return both.filter(ImageFilter.GaussianBlur(item.r * 0.35 * _SCALE)).point(lambda v: 255 * (v > 127))
    if item.flaw == "merged":
        mask.paste(255, (0, 0), _filled(replace(item, x=item.x + item.amount * item.r), item.shape, side))
    if item.flaw == "pale":
        return mask.point(lambda v: int(v * item.amount))
    return mask


def _filled(item: Drawn, shape: str, side: int) -> Image.Image:
    mask, x, y, r = Image.new("L", (side, side)), item.x * _SCALE, item.y * _SCALE, item.r * _SCALE
    scenes.outline(ImageDraw.Draw(mask), shape, x, y, r, 255)
    return mask


def _colour(item: Drawn) -> tuple[int, int, int]:
    own = scenes.COLOURS[item.colour]
    if item.flaw != "muddy":
        return own
    return tuple(round(a + (b - a) * item.amount) for a, b in zip(own, scenes.COLOURS[item.other]))


def main() -> None:
    """Write sample.jsonl beside this file, without pictures, which the generator draws from the index."""
    made = [pair(i) for i in range(8)] + [pair(i, split="heldout") for i in range(8)]
    lines = [json.dumps({key: value for key, value in each.items() if key != "candidates"}) + "\n" for each in made]
    Path(__file__).with_name("sample.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
