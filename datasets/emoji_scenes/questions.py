"""Questions about a scene of emoji, with exact answers and boxes: one function a task."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmrl.importing import import_file

drawing = import_file(Path(__file__).with_name("drawing.py"))
Box, Item, Scene = drawing.Box, drawing.Item, drawing.Scene

# Task -> whether its answer needs the digits.
TASKS = {
    "digit": True,
    "number": True,
    "colour": True,
    "list": True,
    "badge": True,
    "icon": True,
    "part": True,
    "half": True,
    "kind": False,
    "count": False,
    "yesno": False,
    "where": False,
    "caption": False,
    "choice": True,
    "region": False,
    "detect": False,
}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "ABCD"
ICON = 64  # side of the picture of one object alone


@dataclass(frozen=True)
class Answer:
    """A question's answer as it follows from looking at one item, or at the whole scene.

    text: what is right. accepted: other ways to say it. boxes: where to look, in original pixels. label: of what is
    there. thought: a few words before the answer. of_boxes: the text for boxes as a model writes them, where the answer
    is made of boxes.
    """

    text: str
    accepted: tuple[str, ...]
    boxes: tuple[Box, ...]
    label: str
    thought: str
    of_boxes: Callable[[Sequence[Sequence[int]]], str] | None = None


@dataclass(frozen=True)
class Question:
    """text: the question. target: the item that it is about, None where it is about the scene.

    look: the answer that looking at an item gives. choices: texts of the options that are offered. careless: what the
    habit answers, where that is not the look at another item.
    """

    text: str
    target: Item | None
    look: Callable[[Item | None], Answer]
    choices: tuple[str, ...] = ()
    careless: Answer | None = None


def caption(scene: Scene) -> str:
    """The kinds in reading order: "cat, car, apple"."""
    return ", ".join(item.kind for item in scene.items)


# -------------------------------------------------------------------- one function a task


def _reading(which: Callable[[Item], str], thought: Callable[[Item], str]) -> Callable[..., Question]:
    """Questions for the digit on the item that `which` tells of."""

    def ask(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
        target = rng.choice(scene.items)

        def look(item: Item) -> Answer:
            return Answer(
                str(item.digit), (WORDS[item.digit],), (item.box,), item.kind, f"{thought(item)} {item.digit}"
            )

        return Question(f"Which number is {which(target)}?", target, look)

    return ask


def _choice(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    target = rng.choice(scene.items)
    shown = [item.digit for item in scene.items]
    offered = shown + rng.sample([d for d in range(10) if d not in shown], len(LETTERS) - len(shown))
    rng.shuffle(offered)

    def look(item: Item) -> Answer:
        letter = LETTERS[offered.index(item.digit)]
        accepted = (f"{letter} {item.digit}", str(item.digit))
        return Answer(letter, accepted, (item.box,), item.kind, f"the {item.kind} says {item.digit}")

    choices = " ".join(f"{letter} {digit}" for letter, digit in zip(LETTERS, offered))
    return Question(f"Which number is on the {target.kind}? {choices}", target, look, tuple(map(str, offered)))


def _icon(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    target = rng.choice(scene.items)

    def look(item: Item) -> Answer:
        return Answer(f"{item.kind} {item.digit}", (), (item.box,), item.kind, f"a {item.kind}")

    return Question("What is this?", target, look)


def _badge(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    target = rng.choice(scene.items)

    def look(item: Item) -> Answer:
        return Answer(str(item.digit), (WORDS[item.digit],), (item.box,), item.kind, f"a {item.digit}")

    return Question("Which number?", target, look)


def _half(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    target = rng.choice(scene.items)
    there = [item for item in scene.items if item.place.split()[0] == target.place.split()[0]]
    text = ", ".join(f"{item.kind} {item.digit}" for item in there)
    return Question("List all numbers.", target, lambda _: Answer(text, (), (), "objects", text))


def _kind(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    target = rng.choice(scene.items)

    def look(item: Item) -> Answer:
        return Answer(item.kind, (f"the {item.kind}",), (item.box,), item.kind, f"{item.place}: {item.kind}")

    return Question(f"What is at the {target.place}?", target, look)


def _where(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    target = rng.choice(scene.items)

    def look(item: Item) -> Answer:
        return _boxed(item, f"the {item.kind} is {item.place}")

    return Question(f"Where is the {target.kind}?", target, look)


def _region(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    target = rng.choice(scene.items)

    def look(item: Item) -> Answer:
        return _boxed(item, f"{item.place}: {item.kind}")

    return Question(f"Where is the object at the {target.place}?", target, look)


def _boxed(item: Item, thought: str) -> Answer:
    """The item's box is the answer."""
    return Answer(compact(item.box), (), (item.box,), item.kind, thought, lambda boxes: compact(boxes[0]))


def _detect(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    right, twice = _listed(scene, 1), _listed(scene, 2)
    return Question("List all objects.", None, lambda _: right, careless=twice)


def _listed(scene: Scene, times: int) -> Answer:
    """All objects, and so many times in all."""
    items = list(scene.items) * times
    boxes = tuple(item.box for item in items)

    def text(boxes: Sequence[Sequence[int]]) -> str:
        return compact(labelled(boxes, [item.kind for item in items]))

    return Answer(text(boxes), (), boxes, "objects", caption(scene), text)


def labelled(boxes: Sequence[Sequence[int]], labels: Sequence[str]) -> list[dict]:
    return [{"bbox_2d": list(box), "label": label} for box, label in zip(boxes, labels, strict=True)]


def _count(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    number = len(scene.items)
    boxes = tuple(item.box for item in scene.items)
    return Question(
        "How many objects?", None, lambda _: Answer(str(number), (WORDS[number],), boxes, "objects", caption(scene))
    )


def _caption(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    boxes = tuple(item.box for item in scene.items)
    return Question(
        "Name the objects.", None, lambda _: Answer(caption(scene), (), boxes, "objects", f"{len(boxes)} objects")
    )


def _list(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    text = ", ".join(f"{item.kind} {item.digit}" for item in scene.items)
    boxes = tuple(item.box for item in scene.items)
    return Question("List all numbers.", None, lambda _: Answer(text, (), boxes, "objects", caption(scene)))


def _yesno(scene: Scene, names: Sequence[str], rng: random.Random) -> Question:
    present = {item.kind: item for item in scene.items}
    absent = [name for name in names if name not in present]
    kind = rng.choice(absent) if absent and rng.random() < 0.5 else rng.choice(scene.items).kind
    found = present.get(kind)
    boxes = (found.box,) if found else ((0, 0, *scene.extent),)
    said = ("yes", f"there is a {kind}") if found else ("no", f"there is no {kind}")
    return Question(f"Is there a {kind}?", None, lambda _: Answer(said[0], (said[0].title(),), boxes, kind, said[1]))


QUESTIONS = {
    "digit": _reading(lambda item: f"on the {item.kind}", lambda item: f"the {item.kind} says"),
    "number": _reading(lambda item: f"at the {item.place}", lambda item: f"{item.place}:"),
    "colour": _reading(lambda item: item.colour, lambda item: f"{item.colour} is"),
    "list": _list,
    "badge": _badge,
    "icon": _icon,
    "part": _icon,
    "half": _half,
    "kind": _kind,
    "count": _count,
    "yesno": _yesno,
    "where": _where,
    "caption": _caption,
    "choice": _choice,
    "region": _region,
    "detect": _detect,
}


# -------------------------------------------------------------------- the part of a scene that is shown


def _badge_window(scene: Scene, target: Item, rng: random.Random) -> tuple[Box, tuple[int, int] | None]:
    """A small square around the badge, within the scene; nothing is scaled."""
    x1, y1, x2, y2 = target.badge
    side = rng.choice((2, 2, 3)) * scene.size // 10
    x, y = (x1 + x2 - side) // 2, (y1 + y2 - side) // 2
    right, bottom = (edge - side for edge in scene.extent)
    if rng.random() < 0.5 or x < 0 or y < 0 or x > right or y > bottom:
        x = rng.randint(max(0, x2 - side), min(x1, right))
        y = rng.randint(max(0, y2 - side), min(y1, bottom))
    return (x, y, x + side, y + side), None


def _icon_window(scene: Scene, target: Item, rng: random.Random) -> tuple[Box, tuple[int, int] | None]:
    """The object alone, enlarged."""
    return target.box, (ICON, ICON)


def _part_window(scene: Scene, target: Item, rng: random.Random) -> tuple[Box, tuple[int, int] | None]:
    """A square around the object inside of its quarter, so that no other is in it."""
    x1, y1, x2, y2 = target.box
    quarter = scene.size // 2
    side = max(rng.choice((3, 4, 5)) * quarter // 5, x2 - x1, y2 - y1)
    left, top = (edge // quarter * quarter for edge in (x1, y1))
    x = rng.randint(max(left, x2 - side), min(x1, left + quarter - side))
    y = rng.randint(max(top, y2 - side), min(y1, top + quarter - side))
    return (x, y, x + side, y + side), None


def _half_window(scene: Scene, target: Item, rng: random.Random) -> tuple[Box, tuple[int, int] | None]:
    """The upper or the lower half of the scene, in which the object is."""
    top = target.box[1] // (scene.size // 2) * (scene.size // 2)
    return (0, top, scene.size, top + scene.size // 2), None


# Task -> (the part of the scene that its picture shows, its size there; None is as it is).
WINDOWS = {"badge": _badge_window, "icon": _icon_window, "part": _part_window, "half": _half_window}


# -------------------------------------------------------------------- texts


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
