"""Pairs of answers about scenes of emoji, of which exactly one is true: for reward models and judges.

`pair` makes pairs, `record` supervised records of a judge that reasons about them. Both depend on the index and their
options alone. A short and a long answer stand against each other, so that length can be told from truth; where each
stands is drawn as well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmrl.importing import import_file
from mmrl.seeds import seed_of

emoji = import_file(Path(__file__).resolve().parents[1] / "emoji_scenes" / "emoji_scenes.py")

# Task of emoji_scenes -> what its answer tells of an object.
TASKS = {"number": "digit", "digit": "digit", "colour": "digit", "kind": "kind", "badge": "digit"}
# Answers in words that the tokenizer of assets/vision-tiny has as a whole, where it can.
SHORT = ("{value}", "{value}.", "it is {value}")
LONG = (
    "there is a {value} at the {place}",
    "at the {place} the answer is {value}, yes",
    "yes, it is not too small to read: {value}",
)
# Where a judge looks, and what it sees there.
LOOKS = {
    "number": "{place}: {value}",
    "digit": "the {kind} says {value}",
    "colour": "the {kind} says {value}",
    "kind": "{place}: {value}",
    "badge": "the badge says {value}",
}
SHORTCUTS = ("first", "longer")
# With few words for a small model.
ENVIRONMENT = {"name": "pairs", "template": "{question}\n{responses}", "response": "{number}: {answer}"}


def pair(
    index: int,
    seed: int = 0,
    split: str = "train",
    task: str | Sequence[str] = "number",
    objects: tuple[int, int] = (2, 2),
    rows: int = 1,
    other: float = 0.5,
    bias: float = 0.5,
    labels: str = "true",
    lazy: bool = True,
) -> dict:
    """Pair number `index`: the columns are in the README beside this file.

    split, task, objects, rows, lazy: as in `emoji_scenes.problem`; the scenes are its scenes.
    other: share of the pairs whose false answer tells of another object of the scene, which only somebody who looks at
    the right place can tell from the true one; the rest tell of nothing that is there. bias: share in which the long
    answer is the true one. labels: true, or shuffled: `shares` prefer either answer, whatever is true.
    """
    _check_shares(other=other, bias=bias)
    if labels not in ("true", "shuffled"):
        raise ValueError(f"labels={labels!r}: expected true or shuffled")
    asked = emoji.problem(index, seed, split, _turn(index, task, TASKS, "task"), objects=objects, rows=rows)
    scene, feature = asked["images"][0].scene, TASKS[asked["task"]]
    rng = random.Random(seed_of("judged_scenes", seed, split, index))
    target = next(item for item in scene.items if str(getattr(item, feature)) == asked["answer"])
    category = "other" if rng.random() < other else "absent"
    false = _false(scene, target, feature, category, rng)
    long, first = rng.random() < bias, rng.random() < 0.5
    texts = [rng.choice(LONG if longer else SHORT) for longer in (long, not long)]
    values, places = (asked["answer"], false), (0, 1) if first else (1, 0)
    told = [text.format(value=value, place=target.place) for text, value in zip(texts, values)]
    best = 0 if first else 1
    preferred = best if labels == "true" else rng.randrange(2)
    return {
        "id": asked["id"],
        "prompt": asked["prompt"],
        "images": asked["images"] if lazy else [picture() for picture in asked["images"]],
        "candidates": [{"answer": told[i]} for i in places],
        "shares": [float(i == preferred) for i in range(2)],
        "category": category,
        "task": asked["task"],
        "split": split,
        "truth": asked["answer"],
        "true": best,
        "longer": best if long else 1 - best,
        "says": [values[i] for i in places],
        "looks": LOOKS[asked["task"]].format(place=target.place, kind=target.kind, value=asked["answer"]),
    }


def record(
    index: int,
    seed: int = 0,
    split: str = "train",
    task: str | Sequence[str] = "number",
    objects: tuple[int, int] = (2, 2),
    rows: int = 1,
    other: float = 0.5,
    bias: float = 0.5,
    labels: str = "true",
    lazy: bool = True,
    habit: float = 0.0,
    shortcut: str | Sequence[str] = "longer",
    contradiction: float = 0.0,
    ignores: bool = False,
    look: bool = True,
    blind: bool = False,
) -> dict:
    """`pair` shown in a drawn `order`, with what a judge says of it as `completion`: reasoning and verdict.

    habit: share of the verdicts that follow a shortcut instead of the labels; whether one does is the column `habit`.
    shortcut: first or longer, or a list of them that is taken in turn. contradiction: share of the reasonings that end
    in the other response than the one that is then given as the answer. ignores: the habit is the answer's alone, and
    the reasoning before it ends in what the labels prefer. look: it begins with what is seen where. blind: without the
    picture, so that what is seen is a guess, but a small model learns to quote and to compare in half of the time.
    """
    _check_shares(habit=habit, contradiction=contradiction)
    made = pair(index, seed, split, task, objects, rows, other, bias, labels, lazy)
    shortcut = _turn(index, shortcut, SHORTCUTS, "shortcut")
    rng = random.Random(seed_of("judged_scenes record", seed, split, index))
    order = rng.sample(range(2), 2)
    follows, contradicts = rng.random() < habit, rng.random() < contradiction
    chosen = made["shares"].index(1.0)
    if follows:
        chosen = order[0] if shortcut == "first" else made["longer"]
    verdict, found = order.index(chosen) + 1, order.index(made["shares"].index(1.0)) + 1
    reasoned = found if ignores else verdict
    reasoned = 3 - reasoned if contradicts else reasoned
    told = [made["looks"]] if look else []
    told += [_compared(made, number, place) for place, number in enumerate(order, 1)]
    reasoning = ". ".join([*told, f"response {reasoned} is better"])
    completion = f"<think>{reasoning}</think><answer>{verdict}</answer>"
    if blind:
        made |= {"prompt": made["prompt"].removeprefix("<image>"), "images": []}
    return {
        **made,
        "order": order,
        "environment": ENVIRONMENT,
        "completion": completion,
        "habit": follows,
        "contradicts": reasoned != verdict,
    }


def _compared(made: dict, number: int, place: int) -> str:
    """Candidate `number`, shown in this place, beside what is seen: "1 says 5, is 8: no"."""
    said, seen = made["says"][number], made["truth"]
    return f"{place} says {said}, is {seen}: {'yes' if said == seen else 'no'}"


def _false(scene: Any, target: Any, feature: str, category: str, rng: random.Random) -> str:
    """What another object of the scene has, or what none has."""
    shown = [str(getattr(item, feature)) for item in scene.items]
    if category == "other":
        return rng.choice([text for text in shown if text != str(getattr(target, feature))])
    every = [str(digit) for digit in range(10)] if feature == "digit" else list(emoji.drawing.sprite_boxes())
    return rng.choice([text for text in every if text not in shown])


def _turn(index: int, names: str | Sequence[str], known: Sequence[str], key: str) -> str:
    chosen = names if isinstance(names, str) else names[index % len(names)]
    if chosen not in known:
        raise ValueError(f"{key}={chosen!r}: expected one of {', '.join(known)}")
    return chosen


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} must be from 0 to 1")


def main() -> None:
    """Write sample.jsonl beside this file, without pictures, which the generator draws from the index."""
    tasks = tuple(TASKS)
    records = [record(i, task=tasks, habit=0.5, shortcut=SHORTCUTS, contradiction=0.2) for i in range(16)]
    records += [pair(i, split="heldout", task=tasks) for i in range(8)]
    lines = [json.dumps({k: v for k, v in r.items() if k != "images"}) + "\n" for r in records]
    Path(__file__).with_name("sample.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
