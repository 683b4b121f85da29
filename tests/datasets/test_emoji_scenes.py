"""Emoji scenes: answers and boxes are those of the pixels, the splits share no scene, the habit is consistent."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrl.data.choices import rotations
from mmrl.environments.base import Episode
from mmrl.environments.load import load_environment
from mmrl.importing import import_file
from mmrl.media import Media, iou
from mmrl.types import Prompt, Turn

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "emoji_scenes"
emoji = import_file(FOLDER / "emoji_scenes.py")
drawing = import_file(FOLDER / "drawing.py")
TASKS, STYLES = tuple(emoji.TASKS), tuple(emoji.STYLES)
OF_THE_SAMPLE = tuple(task for task in TASKS if task not in emoji.LATER)
LOOKS = ("digit", "number", "colour", "kind", "where", "region")  # tasks that ask for one object


def scene(record: dict):
    return record["images"][-1].scene


def asked(record: dict):
    """The item that the question names, by the words of the prompt alone; None where it names none."""
    found = [i for i in scene(record).items if re.search(rf"\b({i.kind}|{i.place}|{i.colour})\b", record["prompt"])]
    return found[0] if record["task"] in (*LOOKS, "choice") else None


def changed(with_it: Image.Image, without: Image.Image) -> tuple[int, int, int, int]:
    """Around the pixels in which two pictures differ visibly."""
    rows, columns = np.nonzero(np.abs(np.asarray(with_it, int) - np.asarray(without, int)).max(-1) > 12)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


# -------------------------------------------------------------------- pictures


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10**6), size=st.sampled_from([160, 96, 320]), badge=st.sampled_from([0.5, 1.0]))
def test_a_box_is_what_changes_when_the_object_is_taken_away(index, size, badge):
    drawn = scene(emoji.problem(index, size=size, badge=badge))
    whole = drawing.render(drawn)
    assert (whole.size, whole.mode) == ((size, size), "RGB")
    for item in drawn.items:
        without = drawing.render(replace(drawn, items=tuple(i for i in drawn.items if i is not item)))
        seen = changed(whole, without)
        assert np.abs(np.subtract(seen, item.box)).max() <= max(2, size // 80)
        assert min(item.box) >= 0
        assert max(item.box) <= size


def test_objects_are_of_the_sizes_and_numbers_asked_for_and_do_not_overlap():
    scenes = [scene(emoji.problem(i, objects=[2, 3])) for i in range(300)]
    assert {len(s.items) for s in scenes} == {2, 3}
    for drawn in scenes:
        assert len({i.kind for i in drawn.items}) == len({i.digit for i in drawn.items}) == len(drawn.items)
        for number, item in enumerate(drawn.items):
            assert all(iou(item.box, other.box) == 0 for other in drawn.items[:number])
            assert 36 <= max(item.emoji[2] - item.emoji[0], item.emoji[3] - item.emoji[1]) <= 52
            assert (item.badge[2] - item.badge[0], item.badge[3] - item.badge[1]) == (18, 22)


def test_digits_are_fourteen_pixels_high():
    for digit in range(10):
        ink = np.asarray(drawing.badge(digit, 18, 22))[..., 0] == 255
        rows = np.nonzero(ink.any(1))[0]
        assert rows[-1] - rows[0] + 1 == 14


def test_digits_are_told_apart_when_they_are_large_and_less_so_when_they_are_small():
    """Nearest of the ten digits, in the same place, for pictures with noise, at a quarter, half and all of the size."""
    drawn = scene(emoji.problem(3))
    item = drawn.items[0]
    left, top, right, bottom = item.badge
    noise = np.random.default_rng(0)

    def views(scale: float) -> np.ndarray:
        made = []
        for digit in range(10):
            changed_scene = replace(drawn, items=(replace(item, digit=digit), *drawn.items[1:]))
            side = round(drawn.size * scale)
            shown = np.asarray(drawing.Picture(changed_scene, shown=(side, side))(), float) / 255
            made.append(shown[int(top * scale) : int(bottom * scale) + 1, int(left * scale) : int(right * scale) + 1])
        return np.stack(made).reshape(10, -1)

    def accuracy(scale: float) -> float:
        known = views(scale)
        right_ones = 0
        for digit in range(10):
            noisy = known[digit] + noise.normal(0, 0.35, (50, known.shape[1]))
            distance = ((noisy[:, None] - known[None]) ** 2).sum(-1)
            right_ones += (distance.argmin(1) == digit).sum()
        return right_ones / 500

    assert accuracy(0.25) < 0.8
    assert accuracy(0.5) > 0.9
    assert accuracy(1.0) > 0.99


# -------------------------------------------------------------------- answers


@settings(max_examples=200, deadline=None)
@given(index=st.integers(0, 10**6), task=st.sampled_from(TASKS), seed=st.integers(0, 9))
def test_answers_follow_from_the_scene(index, task, seed):
    record = emoji.problem(index, seed, task=task)
    items, target = scene(record).items, asked(record)
    question = record["prompt"].removeprefix("<image>")
    offered = dict(re.findall(r"([A-D]) (\d)", question))
    expected = {
        "digit": lambda: str(target.digit),
        "number": lambda: str(target.digit),
        "colour": lambda: str(target.digit),
        "list": lambda: ", ".join(f"{i.kind} {i.digit}" for i in items),
        "badge": lambda: str(badged(record).digit),
        "icon": lambda: listed(pictured(record)),
        "part": lambda: listed(pictured(record)),
        "half": lambda: listed(pictured(record)),
        "kind": lambda: target.kind,
        "count": lambda: str(len(items)),
        "yesno": lambda: "yes" if re.search(r"a (\w+)\?", question)[1] in {i.kind for i in items} else "no",
        "where": lambda: "[{},{},{},{}]".format(*target.box),
        "caption": lambda: ", ".join(i.kind for i in items),
        "choice": lambda: next(k for k, v in offered.items() if int(v) == target.digit),
        "region": lambda: "[{},{},{},{}]".format(*target.box),
        "detect": lambda: json.dumps([{"bbox_2d": i.box, "label": i.kind} for i in items], separators=(",", ":")),
    }[task]()
    assert record["answer"] == record["possible_answers"][0] == expected
    assert record["detail"] == (task not in ("kind", "count", "yesno", "where", "caption", "region", "detect"))
    assert (record["width"], record["height"]) == (160, 160)
    if target is not None:
        assert record["bboxs"] == [list(target.box)]
        assert record["label"] == target.kind
    if task == "choice":
        assert {i.digit for i in items} <= {int(v) for v in offered.values()}
        assert len(set(offered.values())) == 4


def pictured(record: dict) -> list:
    """The items that lie in the part that is shown; each other one is wholly out of it."""
    x1, y1, x2, y2 = record["images"][0].crop
    inside = [i for i in scene(record).items if i.box[0] >= x1 and i.box[1] >= y1 and i.box[2] <= x2 and i.box[3] <= y2]
    for item in scene(record).items:
        a, b, c, d = item.box
        assert item in inside or c <= x1 or d <= y1 or a >= x2 or b >= y2
    return inside


def badged(record: dict):
    """The one item whose badge is shown whole."""
    x1, y1, x2, y2 = record["images"][0].crop
    badges = [(i, i.badge) for i in scene(record).items]
    shown = [i for i, (a, b, c, d) in badges if a >= x1 and b >= y1 and c <= x2 and d <= y2]
    return shown[0] if len(shown) == 1 else next(i for i in shown if str(i.digit) == record["answer"])


def listed(items: list) -> str:
    return ", ".join(f"{i.kind} {i.digit}" for i in items)


def test_yes_and_no_are_as_likely():
    said = [emoji.problem(i, task="yesno")["answer"] for i in range(1000)]
    assert said.count("yes") == pytest.approx(500, abs=64)  # four standard deviations


def test_reading_order_is_by_rows():
    for i in range(50):
        centres = [
            ((b[1] + b[3]) // 2 // 80, (b[0] + b[2]) // 2 // 80) for b in emoji.problem(i, task="count")["bboxs"]
        ]
        assert centres == sorted(centres)


def test_a_record_depends_on_its_index_and_options_alone():
    options = {"task": TASKS, "style": STYLES, "habit": 0.5, "jitter": 3}
    first = [emoji.record(i, **options) for i in range(5 * len(TASKS))]
    assert [emoji.record(i, **options) for i in reversed(range(5 * len(TASKS)))][::-1] == first
    assert [r["task"] for r in first[:10]] == [*TASKS, TASKS[0]][:10]
    assert [r["style"] for r in first[:: len(TASKS)]] == list(STYLES[:5])
    assert scene(emoji.problem(0, seed=1)) != scene(emoji.problem(0, seed=2))
    lazy, now = emoji.problem(5), emoji.problem(5, lazy=False)
    assert isinstance(now["images"][0], Image.Image)
    assert np.array_equal(np.asarray(lazy["images"][0]()), np.asarray(now["images"][0]))


def test_held_out_scenes_are_no_training_scenes():
    def keys(split: str, count: int) -> set[frozenset]:
        made = [scene(emoji.problem(i, seed, split, objects=(2, 2), kinds=4)) for i in range(count) for seed in (0, 1)]
        assert {s.corner[0] % 2 for s in made} == {int(split == "heldout")}
        return {frozenset((i.kind, i.digit) for i in s.items) for s in made}

    train, held = keys("train", 1500), keys("heldout", 500)
    # Two of four kinds with different digits: 540 scenes, so that the two sets would meet by chance.
    assert len(train) > 400
    assert len(held) > 20
    assert not train & held


# -------------------------------------------------------------------- completions


def boxes_in(text: str) -> list[list[int]]:
    return [[int(n) for n in found] for found in re.findall(r"\[(\d+),(\d+),(\d+),(\d+)\]", text)]


def said(record: dict) -> list[str]:
    """What the policy says, turn by turn."""
    completion = record["completion"]
    return [completion] if isinstance(completion, str) else completion


def final_answer(record: dict) -> str:
    last = said(record)[-1]
    found = re.search(r"<answer>(.*)</answer>$|^\\boxed\{(.*)\}$", last)
    return next(g for g in found.groups() if g is not None) if found else last


@every("style", STYLES)
@every("task", TASKS)
def test_completions_without_a_habit_are_right_and_short(task, style):
    for i in range(20):
        record = emoji.record(i, task=task, style=style)
        style = record["style"]  # plain where a part of the scene is shown
        assert final_answer(record) == record["answer"]
        assert not record["habit"]
        thoughts = re.findall(r"<think>(.*?)</think>", " ".join(said(record)))
        assert len(thoughts) == (len(said(record)) if style in ("visionthink", "think") else 0)
        assert all(1 <= len(t.split()) <= 6 for t in thoughts)
        assert record["prompt"].count("<image>") == len(record["images"]) == 1
        assert ("environment" in record) == (style in ("mgpo", "visionthink"))
        assert len(record["prompt"].split()) <= 15


def test_forms_of_the_styles():
    satori = emoji.record(0, style="satori")["completion"]
    assert re.fullmatch(r"<caption>[a-z, ]+</caption>\n<bbox>\[\[\d+(,\d+){3}\]\]</bbox>\n<answer>\d</answer>", satori)
    mgpo = emoji.record(0, style="mgpo")["completion"]
    assert len(mgpo) == 2
    points = json.loads(re.fullmatch(r"```json\n(.*)\n```", mgpo[0])[1])
    assert [set(p) for p in points] == [{"bbox_2d", "label"}]
    call = emoji.record(0, style="visionthink")["completion"][0]
    request = json.loads(re.fullmatch(r"<think>[a-z ]+</think><tool_call>(.*)</tool_call>", call)[1])
    assert request == {"name": "resize_image", "arguments": {"action": "resize"}}


def test_a_system_text_stands_for_the_styles_word():
    record = emoji.problem(0, style="satori", system="Say where you look.")
    assert record["prompt"].startswith("<image>Which")
    assert record["messages"] == [
        {"role": "system", "content": "Say where you look."},
        {"role": "user", "content": record["prompt"]},
    ]
    assert emoji.problem(0, style="satori")["prompt"].startswith("<image>Look: Which")


def test_a_smaller_picture_has_boxes_in_its_own_pixels():
    for i in range(20):
        whole, half = (emoji.record(i, task="where", scale=scale) for scale in (1.0, 0.5))
        assert half["images"][0]().size == (half["width"], half["height"]) == (80, 80)
        assert np.abs(np.subtract(np.multiply(whole["bboxs"], 0.5), half["bboxs"])).max() <= 0.5
        assert boxes_in(half["completion"]) == half["bboxs"]
    sizes = [emoji.problem(i, task=["kind", "digit"], scale=[1.0, 0.5])["width"] for i in range(8)]
    assert sizes == [160, 160, 80, 80] * 2
    assert emoji.problem(0, style="think", scale=0.5)["width"] == 160


def test_the_environments_show_the_crop_or_the_whole_scene():
    for i in range(30):
        record = emoji.record(i, style="mgpo", habit=0.5, jitter=3)
        reply, episode = replayed(record)
        assert episode.info["crop"] == "ok"
        (view,) = reply.views
        pointed = np.multiply(boxes_in(said(record)[0])[0], 160 / 64)  # 160 x 160 is shown at 56 x 56, as 4 x 4 cells
        assert np.abs(np.subtract(view.crop, pointed)).max() < 1  # whole pixels around it
        assert view.size[0] * view.size[1] == pytest.approx(3200, rel=0.05)
    reply, episode = replayed(emoji.record(0, style="visionthink"))
    assert episode.info["calls"] == 1 and episode.memory is not None
    assert [view.size or (160, 160) for view in reply.views] == [(160, 160)]
    reply, episode = replayed(emoji.record(0, task="kind", style="visionthink"))
    assert reply is None and episode.info["calls"] == 0
    info = emoji.problem(0, style="visionthink")["info"]
    assert info == {"tgt_width": 80, "tgt_height": 80, "use_tool": True}


def replayed(record):
    """(reply, episode) of the record's environment after its first turn."""
    environment = load_environment(record["environment"])
    episode = Episode(Prompt("p", record["prompt"], record), [(160, 160)])
    context = environment.open(episode)
    episode.turns = [Turn(m["role"], m["content"], (0,)) for m in context.messages]
    seen = (64, 64) if record["style"] == "mgpo" else (160, 160)
    episode.media = [Media(context.views[0], (160, 160), seen)]
    episode.turns.append(Turn("assistant", said(record)[0], trained=True))
    return environment.respond(episode), episode


def test_boxes_in_the_spaces_of_the_model():
    assert emoji.written((40, 80, 120, 160), 160) == [40, 80, 120, 160]
    assert emoji.written((40, 80, 120, 160), 160, "seen", (168, 84)) == [42, 42, 126, 84]
    assert emoji.written((40, 80, 120, 160), 160, "norm1000", (168, 84)) == [250, 500, 750, 1000]
    assert emoji.written((40, 80, 120, 160), 320, "original") == [40, 80, 120, 160]
    whole = emoji.record(0, task="where", style="satori")
    half = emoji.record(0, task="where", style="satori", seen=[80, 80])
    for a, b in zip(boxes_in(whole["completion"]), boxes_in(half["completion"])):
        assert np.abs(np.subtract(a, np.multiply(b, 2))).max() <= 1


@every("style", ["plain", "satori", "mgpo", "think"])
@every("task", [*LOOKS, "choice"])
def test_the_habit_looks_at_another_object_with_box_and_answer(task, style):
    for i in range(30):
        record = emoji.record(i, task=task, style=style, habit=1.0)
        target = asked(record)
        other = next(item for item in scene(record).items if item is not target)
        assert record["habit"]
        assert record["answer"] != final_answer(record)
        answers = {
            **dict.fromkeys(("digit", "number", "colour"), str(other.digit)),
            "kind": other.kind,
            **dict.fromkeys(("where", "region"), "[{},{},{},{}]".format(*other.box)),
        }
        if task in answers:
            assert final_answer(record) == answers[task]
        else:
            assert f"{final_answer(record)} {other.digit}" in record["prompt"]
        for box in boxes_in(said(record)[0]):
            scale = 64 / 160 if style == "mgpo" else 1.0
            assert np.abs(np.subtract(box, np.multiply(other.box, scale))).max() <= 0.5
        assert record["bboxs"] == [list(target.box)]  # the truth stays


def test_boxes_as_answers_of_a_scene_worked_out_by_hand():
    """Scene 0 of one row: a rose of 33 x 47 at (39, 13) and a pig of 50 x 43 at (101, 31), each with a badge that hangs
    over its lower right corner by 2."""
    rose, pig = [39, 13, 39 + 33 + 2, 13 + 47 + 2], [101, 31, 101 + 50 + 2, 31 + 43 + 2]
    both = [{"bbox_2d": rose, "label": "rose"}, {"bbox_2d": pig, "label": "pig"}]
    options = {"style": "think", "rows": 1, "objects": (2, 2)}

    right, wrong = (emoji.record(0, task="region", habit=habit, **options) for habit in (0.0, 1.0))
    assert right["prompt"] == "<image>Think: Where is the object at the top left?"
    assert right["completion"] == "<think>top left: rose</think><answer>[39,13,74,62]</answer>"
    assert wrong["completion"] == "<think>top right: pig</think><answer>[101,31,153,76]</answer>"
    assert (right["bboxs"], wrong["bboxs"]) == ([rose], [rose])

    right, twice, rough = (
        emoji.record(0, task="detect", habit=habit, jitter=jitter, **options)
        for habit, jitter in ((0.0, 0), (1.0, 0), (1.0, 2))
    )
    assert right["prompt"] == "<image>Think: List all objects."
    assert right["completion"].startswith("<think>rose, pig</think><answer>[{")
    assert json.loads(final_answer(right)) == json.loads(right["answer"]) == right["objects"] == both
    assert json.loads(final_answer(twice)) == [*both, *both]
    assert [r["habit"] for r in (right, twice, rough)] == [False, True, True]
    assert twice["objects"] == rough["objects"] == both  # the truth stays
    first, second, third, fourth = (found["bbox_2d"] for found in json.loads(final_answer(rough)))
    assert first != third and second != fourth  # each with its own jitter
    assert np.abs(np.subtract([first, second, third, fourth], [rose, pig, rose, pig])).max() == 2

    half = emoji.record(0, task="detect", scale=0.5, rows=1, objects=(2, 2))
    assert [found["bbox_2d"] for found in half["objects"]] == [[20, 6, 37, 31], [50, 16, 76, 38]]  # 19.5, 6.5: to even
    assert "objects" not in emoji.problem(0)


def test_the_habit_of_visionthink_asks_the_other_way_around():
    for i in range(20):
        needs, easy = (emoji.record(i, task=t, style="visionthink", habit=1.0) for t in ("digit", "kind"))
        assert len(needs["completion"]) == 1
        assert len(easy["completion"]) == 2
        assert final_answer(needs) == needs["answer"]


def test_the_share_of_the_habit_and_the_size_of_the_jitter():
    made = [emoji.record(i, style="satori", habit=0.3, jitter=3) for i in range(2000)]
    assert sum(r["habit"] for r in made) == pytest.approx(600, abs=82)  # four standard deviations
    offsets = np.array([np.subtract(boxes_in(r["completion"])[0], r["bboxs"][0]) for r in made if not r["habit"]])
    assert np.abs(offsets).max() == 3
    assert offsets.std() == pytest.approx(2.0, abs=0.1)  # of the seven whole numbers from -3 to 3
    assert not any(emoji.record(i, task=t, habit=1.0)["habit"] for i in range(5) for t in ("count", "yesno", "caption"))


@every(
    ("options", "told"),
    [
        ({"split": "test"}, "expected train or heldout"),
        ({"task": "shape"}, "task='shape': expected one of digit, number"),
        ({"style": ["plain", "loud"], "task": ["digit"]}, "style='loud': expected one of plain, satori"),
        ({"objects": (1, 3)}, "from 2 to 4"),
        ({"badge": 0}, "badge=0 must be above 0"),
        ({"objects": (2, 3), "kinds": 2}, "no more than the 2 kinds"),
    ],
)
def test_wrong_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        emoji.problem(1, **options)
    with pytest.raises(ValueError, match="habit=2 must be from 0 to 1"):
        emoji.record(0, habit=2)


def test_options_are_a_column_and_can_be_rotated():
    for index in range(20):
        made = emoji.problem(index, task="choice", lazy=False)
        prompt = Prompt(made["id"], made["prompt"], made)
        seen = set()
        for way in rotations(prompt):
            letter, _, text = way.record["possible_answers"][1].partition(" ")
            assert way.record["answer"] == letter
            assert f"{letter} {text}" in way.text
            assert way.record["choices"]["ABCD".index(letter)] == text == made["possible_answers"][2]
            seen.add(letter)
        assert seen == set("ABCD")
    assert "choices" not in emoji.problem(0, task="digit")


def test_the_sample_that_ships_is_what_the_generator_makes():
    records = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text().splitlines()]
    made = [emoji.record(i, task=OF_THE_SAMPLE, style=STYLES, habit=0.5, jitter=3) for i in range(35)]
    assert records[:35] == [{k: v for k, v in r.items() if k != "images"} for r in made]
    assert [r["split"] for r in records] == ["train"] * 35 + ["heldout"] * 7


def test_everything_that_ships_is_named_with_its_licence():
    notice = (FOLDER / "NOTICE").read_text()
    assert "Apache License, Version 2.0" in notice
    assert all(re.search(rf"^  {name} ", notice, re.MULTILINE) for name in drawing.photographs())
