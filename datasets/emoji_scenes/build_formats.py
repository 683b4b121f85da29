"""Write formats/: a few of our scenes in the record formats that papers and libraries publish.

python datasets/emoji_scenes/build_formats.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mmrl.importing import import_file

emoji = import_file(Path(__file__).with_name("emoji_scenes.py"))
drawing = import_file(Path(__file__).with_name("drawing.py"))
FOLDER = Path(__file__).with_name("formats")
COUNT = 6
SYSTEM = "Answer with one word or number."


def scene(index: int, task: str = "digit") -> dict:
    """A problem, its picture as the name of a file."""
    made = emoji.problem(index, task=task)
    return {**made, "picture": f"pictures/scene-{index}.jpg", "question": made["prompt"].removeprefix("<image>")}


def satori() -> Iterator[dict]:
    for r in (scene(i, "digit" if i % 2 else "kind") for i in range(COUNT)):
        yield {
            "messages": [
                {"role": "system", "content": "Write <caption>, <bbox> and <answer>."},
                {"role": "user", "content": f"<image>{r['question']}"},
            ],
            "images": [r["picture"]],
            "image_caption": r["image_caption"],
            "bboxs": r["bboxs"],
            "width": r["width"],
            "height": r["height"],
            "possible_answers": r["possible_answers"],
        }


def mgpo() -> Iterator[dict]:
    for r in (scene(i, "choice") for i in range(COUNT)):
        question, _, offered = r["question"].partition("? ")
        letters = offered.split()
        choices = [f"({letter}) {digit}" for letter, digit in zip(letters[::2], letters[1::2])]
        question += "?"
        yield {
            "prompt": [{"role": "user", "content": "\n".join([f"<image>{question}", *choices])}],
            "image_path": r["picture"],
            "question": question,
            "choices": choices,
            "answer": r["answer"],
        }


def visionthink() -> Iterator[dict]:
    for i, r in enumerate(scene(i, "digit" if i % 2 else "count") for i in range(COUNT)):
        yield {
            "doc_id": f"scene-{i}",
            "images": [r["picture"]],
            "problem": r["prompt"],
            "original_answer": r["answer"],
            "info": {"tgt_width": r["width"] // 2, "tgt_height": r["height"] // 2, "use_tool": r["detail"]},
        }


def vlm_r1() -> Iterator[dict]:
    for i, r in enumerate(scene(i, "where" if i % 2 else "yesno") for i in range(COUNT)):
        gold = json.dumps({"bbox_2d": r["bboxs"][0]}) if r["task"] == "where" else r["answer"]
        yield {
            "id": i,
            "image": r["picture"],
            "conversations": [
                {"from": "human", "value": f"<image>{r['question']}"},
                {"from": "gpt", "value": f"<answer> {gold} </answer>"},
            ],
            "accu_reward_method": "default" if r["task"] == "where" else "yes_no",
        }


def mmpr() -> Iterator[dict]:
    for i, r in enumerate(scene(i, "digit") for i in range(COUNT)):
        wrong = emoji.record(i, habit=1.0)["completion"]
        system = {"system_prompt": SYSTEM} if i % 2 else {}
        yield {"image": r["picture"], "question": r["prompt"], "chosen": r["answer"], "rejected": wrong, **system}


def trl() -> Iterator[dict]:
    for r in (scene(i, "kind" if i % 2 else "digit") for i in range(COUNT)):
        parts = [{"type": "image"}, {"type": "text", "text": r["question"]}]
        yield {
            "prompt": [{"role": "user", "content": parts}],
            "images": [r["picture"]],
            "solution": r["answer"],
        }


def ui_s1() -> Iterator[dict]:
    """Screens are scenes, on which what was tapped is gone."""
    for index in range(5):
        screen = emoji.problem(100 + index, objects=(3, 4))["images"][0].scene
        first, second = screen.items[index % 2 + 1], screen.items[0]
        left = {n: tuple(i for i in screen.items if i not in (first, second)[:n]) for n in range(3)}
        for n, items in left.items():
            save(drawing.Picture(replace(screen, items=items)), f"pictures/screen-{index}-{n}.jpg")
        actions = [*map(_tap, (first, second)), {"action": "terminate", "status": "success"}]
        thoughts = [f"tap the {first.kind}", f"tap the {second.kind}", "both are gone"]
        yield {
            "id": f"tap-{index}",
            "goal": f"Tap the {first.kind}, then the {second.kind}.",
            "is_successful": True,
            "steps": [
                {"screenshot": f"pictures/screen-{index}-{n}.jpg", "action_content": action, "thought": thought}
                for n, (action, thought) in enumerate(zip(actions, thoughts))
            ],
        }


FORMATS = {f.__name__: f for f in (satori, mgpo, visionthink, vlm_r1, mmpr, trl, ui_s1)}


def _tap(item: drawing.Item) -> dict:
    x1, y1, x2, y2 = item.box
    return {"action": "click", "coordinate": [(x1 + x2) / 2, (y1 + y2) / 2], "bbox": list(item.box)}


def save(picture: drawing.Picture, name: str) -> None:
    """As a JPEG, colours at full resolution, so that the digits stay as they are."""
    picture().save(FOLDER / name, quality=88, subsampling=0, optimize=True)


def main() -> None:
    (FOLDER / "pictures").mkdir(parents=True, exist_ok=True)
    for index in range(COUNT):
        save(emoji.problem(index)["images"][0], f"pictures/scene-{index}.jpg")
    for name, records in FORMATS.items():
        text = "".join(json.dumps(record) + "\n" for record in records())
        (FOLDER / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
