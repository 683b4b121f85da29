"""Prompts and supervised records over scenes of emoji, and the ways in which a policy may write an answer.

`problem` makes prompts, `record` supervised records. Both depend on the index and their options alone. Two of the tasks
ask for a digit on a badge of 18 x 22 of 160 x 160 pixels, so that a crop or a higher resolution is worth having.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmrl.environments.pictures import fitted, scaled
from mmrl.importing import import_file
from mmrl.media import Media, Size, View, clipped, from_original
from mmrl.seeds import seed_of

drawing = import_file(Path(__file__).with_name("drawing.py"))
questions = import_file(Path(__file__).with_name("questions.py"))
Box, Item, Picture, Scene = drawing.Box, drawing.Item, drawing.Picture, drawing.Scene
Question, TASKS, QUESTIONS, WINDOWS = questions.Question, questions.TASKS, questions.QUESTIONS, questions.WINDOWS
caption, compact, labelled = questions.caption, questions.compact, questions.labelled

HELD_OUT_SHARE = 0.1
# Tasks that the texts of corpus.txt, from which the tokenizer of assets/vision-tiny was learned, have none of.
LATER = ("region", "detect")
# Style -> the word before a question that asks for it.
STYLES = {"plain": "", "satori": "Look: ", "mgpo": "Zoom: ", "visionthink": "Ask: ", "think": "Think: "}
# Style -> the environment that its conversations are held in, with few words for a small model.
ENVIRONMENTS = {
    "mgpo": {
        "name": "mgpo",
        "system": None,
        "ask": "",
        "crop": "<image>Zoomed.",
        "fallback": "<image>Not found.",
        "min_pixels": 3200,
        "max_pixels": 3200,
        "min_side": 8,
    },
    "visionthink": {
        "name": "visionthink",
        "system": None,
        "shown": "<image>Enlarged.",
        "error": "No such tool.",
        "min_pixels": None,
        "max_pixels": None,
    },
}
CELL = 16  # side of a visual token in pixels, of which processors of the Qwen family show whole ones
CALL = '<tool_call>{"name": "resize_image", "arguments": {"action": "resize"}}</tool_call>'


def problem(
    index: int,
    seed: int = 0,
    split: str = "train",
    task: str | Sequence[str] = "digit",
    style: str | Sequence[str] = "plain",
    size: int = drawing.SIZE,
    objects: tuple[int, int] = (2, 4),
    kinds: int | None = None,
    badge: float = 1.0,
    rows: int = 2,
    low: float = 0.5,
    scale: float | Sequence[float] = 1.0,
    system: str | None = None,
    lazy: bool = True,
) -> dict:
    """Prompt number `index`: the columns are in the README beside this file.

    task, style: keys of TASKS and STYLES, or lists of them that are taken in turn. split: train or heldout; no scene of
    one has the same kinds with the same digits as a scene of the other, whatever seed and index. Tasks that show a part
    of the scene (WINDOWS) are always in style plain.
    size: side of the scene in pixels. objects: smallest and largest number of them, of the first `kinds` kinds.
    badge: size of the badges; 1 is 18 x 22 of 160 x 160 pixels. rows: 1 is the upper half of a scene, with its two
    places.
    low: share of the side that is shown first where the style is visionthink; it becomes the column `info`.
    scale: share of the side at which the picture is drawn in style plain, or several, which are taken in turn.
    system: stands for the style's word, as a system message. lazy: pictures as functions without arguments, which
    draw them; otherwise PIL.
    """
    round_ = index // (_length(task) * _length(style))
    task, style = _turn(index, task, TASKS, "task"), _turn(index // _length(task), style, STYLES, "style")
    style = "plain" if task in WINDOWS else style  # a box would be in pixels of the window
    scene, question = _ask(index, seed, split, task, size, objects, kinds, badge, rows)
    answer = question.look(question.target)
    factor = scale if isinstance(scale, float | int) else scale[round_ % len(scale)]
    extent = scaled(scene.extent, factor if style == "plain" else 1.0)
    picture = Picture(scene, shown=extent)
    boxes = [written(box, scene.extent, "seen", extent) for box in answer.boxes]
    if task in WINDOWS:
        window, shown = WINDOWS[task](scene, question.target, random.Random(seed_of("window", seed, split, index)))
        picture, boxes, extent = Picture(scene, window, shown), [], scene.extent
    text = f"<image>{'' if system else STYLES[style]}{question.text}"
    made = {
        "id": f"{split}-{index}",
        "prompt": text,
        "images": _pictures([picture], lazy),
        "answer": answer.text,
        "possible_answers": [answer.text, *answer.accepted],
        "task": task,
        "style": style,
        "detail": TASKS[task],
        "width": extent[0],
        "height": extent[1],
        "bboxs": boxes,
        "label": answer.label,
        "image_caption": caption(scene),
        "split": split,
    }
    if question.choices:
        made["choices"] = list(question.choices)
    if task == "detect":
        made["objects"] = labelled(boxes, [item.kind for item in scene.items])
    if system:
        made["messages"] = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    if style == "visionthink":
        width, height = (round(side * low) for side in scene.extent)
        made["info"] = {"tgt_width": width, "tgt_height": height, "use_tool": TASKS[task]}
    return made


def record(
    index: int,
    seed: int = 0,
    split: str = "train",
    task: str | Sequence[str] = "digit",
    style: str | Sequence[str] = "plain",
    size: int = drawing.SIZE,
    objects: tuple[int, int] = (2, 4),
    kinds: int | None = None,
    badge: float = 1.0,
    rows: int = 2,
    low: float = 0.5,
    scale: float | Sequence[float] = 1.0,
    system: str | None = None,
    lazy: bool = True,
    habit: float = 0.0,
    jitter: int = 0,
    space: str = "seen",
    seen: tuple[int, int] | None = None,
) -> dict:
    """`problem` with its `completion` in the given style, and `habit`: whether it follows the wrong habit.

    The completion is a text, or a list of the policy's turns, between which the record's `environment` speaks: it shows
    the crop enlarged (style mgpo), or the whole scene after a first picture of `low` times its side (visionthink).
    habit: share of the records in [0, 1] that look at the first other object in reading order instead of the one that
    is asked for, box and answer (task detect: list all objects a second time; style visionthink: ask for more pixels
    where these are not needed, and do not where they are). jitter: pixels by which each edge of a box may be off.
    space, seen: how boxes are written, see `written`; seen=None is what a processor with visual tokens of CELL pixels a
    side makes of the first picture, and for an answer that is a box the picture's own size.
    """
    if not 0 <= habit <= 1:
        raise ValueError(f"habit={habit} must be from 0 to 1")
    made = problem(index, seed, split, task, style, size, objects, kinds, badge, rows, low, scale, system, lazy)
    scene, question = _ask(index, seed, split, made["task"], size, objects, kinds, badge, rows)
    rng = random.Random(seed_of("habit", seed, split, index))
    follows, style = rng.random() < habit, made["style"]
    careless = follows and style != "visionthink"  # that one's habit is in when it asks
    item = _other(scene, question.target) if careless else question.target
    answer = (careless and question.careless) or question.look(item)
    boxes = [shaken(box, scene.extent, jitter, rng) for box in answer.boxes]
    if answer.of_boxes:
        whole = [written(box, scene.extent, space, seen or (made["width"], made["height"])) for box in boxes]
        answer = replace(answer, text=answer.of_boxes(whole))
    seen = seen or first_view(made)
    numbers = [written(box, scene.extent, space, seen) for box in boxes]
    if style == "mgpo":
        point = [{"bbox_2d": written(_around(boxes), scene.extent, space, seen), "label": answer.label}]
        completion = [f"```json\n{compact(point)}\n```", f"\\boxed{{{answer.text}}}"]
    elif style == "visionthink":
        final = f"<think>{answer.thought}</think><answer>{answer.text}</answer>"
        asks = made["detail"] != follows
        completion = [f"<think>too small to read</think>{CALL}", final] if asks else [final]
    elif style == "satori":
        completion = (
            f"<caption>{made['image_caption']}</caption>\n<bbox>{compact(numbers)}</bbox>\n"
            f"<answer>{answer.text}</answer>"
        )
    elif style == "think":
        completion = f"<think>{answer.thought}</think><answer>{answer.text}</answer>"
    else:
        completion = answer.text
    changed = follows if style == "visionthink" else careless and bool(question.target or question.careless)
    environment = {"environment": ENVIRONMENTS[style]} if style in ENVIRONMENTS else {}
    return {**made, **environment, "completion": completion, "habit": changed}


# -------------------------------------------------------------------- scenes


def _ask(
    index: int,
    seed: int,
    split: str,
    task: str,
    size: int,
    objects: Sequence[int],
    kinds: int | None,
    badge: float,
    rows: int,
) -> tuple[Scene, Question]:
    """The first scene drawn for the index that belongs to the split, and a question about it."""
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r}: expected train or heldout")
    names = list(drawing.sprite_boxes())[:kinds]
    few, many = objects
    if not 0 < badge <= 2:
        raise ValueError(f"badge={badge} must be above 0, and 2 at most")
    if rows not in (1, 2):
        raise ValueError(f"rows={rows}: expected 1 or 2")
    if not 2 <= few <= many <= min(2 * rows, len(names)):
        raise ValueError(f"objects={tuple(objects)}: from 2 to {2 * rows}, and no more than the {len(names)} kinds")
    rng = random.Random(seed_of("emoji_scenes", seed, split, index))
    while True:
        parity = int(split == "heldout")
        scene = drawing.layout(rng, names, size, (few, many), parity=parity, badge_size=badge, rows=rows)
        if held_out(scene) == (split == "heldout"):
            return scene, QUESTIONS[task](scene, names, rng)


def held_out(scene: Scene) -> bool:
    """Whether scenes of these kinds with these digits are of the held-out split."""
    key = " ".join(sorted(f"{item.kind}{item.digit}" for item in scene.items))
    return seed_of("emoji_scenes heldout", key) < HELD_OUT_SHARE * 2**63


def _other(scene: Scene, target: Item | None) -> Item | None:
    """Where the habit looks: at the first other object; None where the question is about the whole scene."""
    return target and next(item for item in scene.items if item is not target)


# -------------------------------------------------------------------- boxes and pictures


def written(
    box: Sequence[int], extent: int | tuple[int, int], space: str = "seen", seen: tuple[int, int] | None = None
) -> list[int]:
    """A box in pixels of a scene of `extent` (its side, or width and height) as whole numbers of `space`.

    seen: (width, height) of what the model's processor makes of the scene; None is its own size.
    """
    size = (extent, extent) if isinstance(extent, int) else extent
    media = Media(View(), original=size, seen=tuple(seen) if seen else size)
    return [round(number) for number in from_original(box, media, space)]


def first_view(made: dict) -> Size:
    """(width, height) in pixels of what the policy is shown first, in whole visual tokens of CELL pixels a side."""
    size = (made["width"], made["height"])
    if made["style"] == "mgpo":
        options = ENVIRONMENTS["mgpo"]
        size = fitted(size, options["min_pixels"], options["max_pixels"])
    elif made["style"] == "visionthink":
        size = (made["info"]["tgt_width"], made["info"]["tgt_height"])
    width, height = (max(1, round(side / CELL)) * CELL for side in size)
    return (width, height)


def shaken(box: Box, extent: tuple[int, int], jitter: int, rng: random.Random) -> Box:
    """The box with each edge off by up to `jitter` pixels, still a box within the scene."""
    x1, y1, x2, y2 = (int(edge) + rng.randint(-jitter, jitter) for edge in box)
    left, top, right, bottom = clipped((x1, y1, x2, y2), extent)
    return (int(left), int(top), int(max(right, left + 1)), int(max(bottom, top + 1)))


def _around(boxes: Sequence[Box]) -> Box:
    left, top, right, bottom = zip(*boxes)
    return (min(left), min(top), max(right), max(bottom))


def _pictures(pictures: Sequence[Picture], lazy: bool) -> list:
    return [picture if lazy else picture() for picture in pictures]


# -------------------------------------------------------------------- texts


def _length(names: str | Sequence[str]) -> int:
    return 1 if isinstance(names, str) else len(names)


def _turn(index: int, names: str | Sequence[str], known: dict, key: str) -> str:
    chosen = names if isinstance(names, str) else names[index % len(names)]
    if chosen not in known:
        raise ValueError(f"{key}={chosen!r}: expected one of {', '.join(known)}")
    return chosen


def main() -> None:
    """Write sample.jsonl beside this file, without pictures, which the generator draws from the index; and corpus.txt,
    texts that a tokenizer may learn from."""
    tasks, styles = tuple(task for task in TASKS if task not in LATER), tuple(STYLES)
    texts = []
    for i in range(700):
        made = record(i, task=tasks, style=styles)
        said = made["completion"] if isinstance(made["completion"], list) else [made["completion"]]
        texts += [made["prompt"].removeprefix("<image>"), *said]
    texts += [
        e[k].removeprefix("<image>") for e in ENVIRONMENTS.values() for k in ("crop", "fallback", "shown") if k in e
    ]
    Path(__file__).with_name("corpus.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    records = [record(i, task=tasks, style=styles, habit=0.5, jitter=3) for i in range(35)]
    records += [record(i, split="heldout", task=tasks) for i in range(7)]
    lines = [json.dumps({k: v for k, v in r.items() if k != "images"}) + "\n" for r in records]
    Path(__file__).with_name("sample.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
