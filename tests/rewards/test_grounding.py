"""Boxes that point: areas by hand, every coordinate space, published coordinate bugs, and ways to cheat."""

from __future__ import annotations

import json
import time

import pytest
from every import every

from mmrl.media import Media, View, from_original
from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

PLAIN = Media(View(), (100, 100), (100, 100), "original")


def score(name: str, text: object, truth: object, media=(PLAIN,), column: str = "boxes", **options):
    prompt = Prompt("p", "q", {column: truth})
    group = Group(prompt, 0, [Sample(prompt, 0, text, media=list(media))])
    reward = load_reward(f"grounding.{name}", options)
    score_groups([group], [reward])
    return group.samples[0].scores[reward.name]


def said(boxes: object) -> str:
    return f"<caption>c</caption><bbox>{json.dumps(boxes)}</bbox><answer>a</answer>"


@every(
    ("boxes", "truth", "value"),
    [
        ([[0, 0, 10, 10]], [[0, 0, 10, 10]], 1.0),
        ([0, 0, 10, 10], [[0, 0, 10, 10]], 1.0),  # a single flat box
        ([[0, 0, 10, 10]], [0, 0, 10, 10], 1.0),
        ([[0, 0, 10, 10]], [[0, 0, 10, 10], [20, 0, 30, 10]], 1 / 2),
        ([[0, 0, 30, 10]], [[0, 0, 10, 10], [20, 0, 30, 10]], 2 / 3),
        ([[0, 0, 10, 10], [5, 0, 15, 10]], [[0, 0, 10, 10]], 2 / 3),  # what both cover counts once
        ([[0, 0, 10, 10], [0, 0, 10, 10]], [[0, 0, 10, 10]], 1.0),
        ([[0, 0, 100, 100]], [[0, 0, 10, 10]], 1 / 100),  # the whole picture
        ([[90, 0, 110, 10]], [[90, 0, 100, 10]], 1 / 2),  # outside the picture counts against it
        ([[0, 0, 10, 10], [50, 50, 40, 40]], [[0, 0, 10, 10]], 1.0),  # reversed: covers nothing
        ([[10, 10, 0, 0]], [[0, 0, 10, 10]], 0.0),
        ([[5, 5, 5, 9]], [[0, 0, 10, 10]], 0.0),
        ([], [[0, 0, 10, 10]], 0.0),
        ([[0, 0, 10]], [[0, 0, 10, 10]], 0.0),
        ([[0, 0, 10, 10], "all"], [[0, 0, 10, 10]], 0.0),
        ([[0, 0, 10, None]], [[0, 0, 10, 10]], 0.0),
        ([[0, 0, 10, True]], [[0, 0, 1, 1]], 0.0),
        ([["0", "0", "10", "10"]], [[0, 0, 10, 10]], 0.0),
        ([[0, 0, 10, float("nan")]], [[0, 0, 10, 10]], 0.0),
        ([[0, 0, float("inf"), 10]], [[0, 0, 10, 10]], 0.0),
        ([[0, 0, 1e200, 1e200]], [[0, 0, 10, 10]], 0.0),
        ([[0, 0, 10**400, 10]], [[0, 0, 10, 10]], 0.0),
    ],
)
def test_union_iou(boxes, truth, value):
    found = score("union_iou", said(boxes), truth)
    assert found.status == "ok"
    assert found.value == pytest.approx(value, abs=1e-12)


@every(
    ("text", "value"),
    [
        ("<bbox>((0, 0, 10, 10),)</bbox>", 1.0),  # a Python literal
        ("<bbox>[[0, 0, 10, 10]</bbox>", 0.0),
        ("<bbox>at [0, 0, 10, 10]</bbox>", 0.0),
        ("<bbox></bbox>", 0.0),
        ("[[0, 0, 10, 10]]", 0.0),
        ("", 0.0),
        ("<bbox>[[50, 50, 60, 60]]</bbox><bbox>[[0, 0, 10, 10]]</bbox>", 1.0),  # the last whole one
        ("<bbox>[[0, 0, 10, 10]]</bbox><bbox>[[50, 50, 60,", 1.0),
        ("<bbox>" + "[" * 30_000 + "</bbox>", 0.0),
        ("<bbox>" + "9" * 5_000 + "</bbox>", 0.0),
    ],
)
def test_what_stands_in_the_tag_is_a_list_of_boxes_or_nothing(text, value):
    found = score("union_iou", text, [[0, 0, 10, 10]])
    assert (found.status, found.value) == ("ok", value)


VIEWS = [
    Media(View(), (640, 480), (644, 476), "seen"),
    Media(View(), (640, 480), (644, 476), "norm1000"),
    Media(View(), (640, 480), (644, 476), "norm1"),
    Media(View(), (640, 480), (644, 476), "original"),
    Media(View(crop=(100.0, 50.0, 420.0, 290.0)), (640, 480), (1288, 952), "seen"),
    Media(View(crop=(100.0, 50.0, 420.0, 290.0)), (640, 480), (1288, 952), "norm1000"),
]


@every("media", VIEWS, ids=lambda m: f"{m.space}-{bool(m.view.crop)}")
@every("name", ["union_iou", "box_iou", "iou_at"])
def test_a_right_box_scores_1_in_every_space_and_view(media, name):
    truth = [130, 90, 275, 201]
    written = from_original(truth, media)
    assert score(name, said([list(written)]), [truth], [media]).value == pytest.approx(1.0, abs=1e-9)


def test_a_small_picture_is_not_measured_by_a_size_that_nobody_showed():
    # SATORI's reward assumed that 100 x 80 pixels had been enlarged to 504 x 420 (min_pixels=200704), while the
    # sampler had shown 112 x 84: this right box would come out at [5.6, 4, 16.7, 12] and score 0.
    media = Media(View(), (100, 80), (112, 84), "seen")
    assert score("union_iou", said([[28, 21, 84, 63]]), [[25, 20, 75, 60]], [media]).value == pytest.approx(1.0)


def test_coordinates_of_a_reduced_picture_are_not_read_in_the_raw_one():
    # DeepEyes cut the raw 2000 x 1000 picture at coordinates that were written of 1000 x 500.
    media = Media(View(), (2000, 1000), (1000, 500), "seen")
    text = said([[500, 250, 750, 500]])
    assert score("box_iou", text, [[1000, 500, 1500, 1000]], [media]).value == 1.0
    assert score("box_iou", text, [[500, 250, 750, 500]], [media]).value == 0.0


def test_the_picture_that_the_boxes_are_of_can_be_chosen():
    whole = Media(View(), (200, 200), (100, 100), "seen")
    crop = Media(View(crop=(100.0, 100.0, 200.0, 200.0)), (200, 200), (200, 200), "seen")
    text, truth = said([[20, 20, 40, 40]]), [[110, 110, 120, 120]]
    assert score("box_iou", text, truth, [whole, crop]).value == 0.0
    assert score("box_iou", text, truth, [whole, crop], picture=1).value == 1.0
    assert score("box_iou", text, truth, [whole, crop], picture=-1).value == 1.0


@every(
    ("text", "value"),
    [
        ('<think>t</think><answer>{"bbox": [0, 0, 10, 10]}</answer>', 1.0),
        ("<answer>It is at [0, 0, 10, 10].</answer>", 1.0),
        ('```json\n[{"bbox_2d": [0, 0, 10, 10], "label": "dog"}]\n```', 1.0),
        ('<answer>```json\n[{"bbox_2d": [0, 0, 10, 10]}]\n```</answer>', 1.0),
        ('```json\n[{"bbox_2d": [0, 0, 10, 10], "label": "dog"}', 1.0),  # cut off: the four numbers remain
        ('```json\n[{"bbox_2d": [0, 0, 10, 10]}]\n```\n<answer>B</answer>', 1.0),  # MGPO: boxes first, then a letter
        ("(0, 0, 10, 5)", 0.5),
        ("[0, 0, 10, 5] or [0, 0, 10, 10]", 0.5),  # the first box counts, so that a list of guesses is one guess
        ("[10, 10, 0, 0]", 0.0),
        ("[1, 2, 3]", 0.0),
        ("nowhere", 0.0),
        ("", 0.0),
        ("<answer></answer>", 0.0),
    ],
)
def test_box_iou_reads_the_ways_in_which_models_write_a_box(text, value):
    found = score("box_iou", text, [0, 0, 10, 10])
    assert (found.status, found.value) == ("ok", pytest.approx(value))


def test_the_threshold_of_iou_at():
    assert score("iou_at", "[0, 0, 10, 5]", [0, 0, 10, 10]).value == 1.0
    assert score("iou_at", "[0, 0, 10, 5]", [0, 0, 10, 10], threshold=0.51).value == 0.0
    with pytest.raises(ValueError, match="threshold=0 must be"):
        load_reward("grounding.iou_at", {"threshold": 0}).call([])


def test_many_boxes_are_seen_by_the_count_penalty_only():
    truth = [[0, 0, 100, 100]]
    spam = [[x, 0, x + 1, 100] for x in range(100)]
    assert score("union_iou", said(spam), truth).value == pytest.approx(1.0)
    assert score("union_iou", said(spam), truth, count_penalty=True).value == pytest.approx(0.01)
    assert score("union_iou", said(truth), truth, count_penalty=True).value == 1.0
    assert score("union_iou", said(spam * 4), truth).value == 0.0


def test_a_very_long_answer_takes_no_time():
    start = time.perf_counter()
    for text in ("<bbox>" * 50_000, "[1, 2, " * 50_000, "```json\n" * 50_000, said([[1, 2, 3, 4]] * 20_000)):
        assert score("union_iou", text, [0, 0, 10, 10]).value == 0.0
        assert score("box_iou", text, [0, 0, 10, 10]).status == "ok"
    assert time.perf_counter() - start < 10


@every("column", ["boxes", "bboxs", "bbox"])
def test_names_of_the_record_s_column(column):
    assert score("union_iou", said([[0, 0, 10, 10]]), [[0, 0, 10, 10]], column=column).value == 1.0


def test_what_is_wrong_with_the_record_is_never_a_0():
    check = load_reward("grounding.union_iou").check_prompt
    for truth, told in (
        ([[0, 0, 10]], "not four numbers"),
        ([[10, 0, 0, 10]], "empty, reversed or not finite"),
        ([[0, 0, 10, float("nan")]], "empty, reversed or not finite"),
        ("somewhere", "neither JSON"),
    ):
        found = score("union_iou", said([[0, 0, 10, 10]]), truth)
        assert (found.status, found.value) == ("invalid", None)
        assert told in found.reason
        assert told in check(Prompt("p", "q", {"boxes": truth}))
    for truth in (None, []):
        assert score("union_iou", said([[0, 0, 10, 10]]), truth).status == "na"
        assert "lacks `boxes`" in check(Prompt("p", "q", {"boxes": truth}))
    assert check(Prompt("p", "q", {"boxes": "[[0, 0, 10, 10]]"})) is None


def test_a_record_in_another_space_and_a_sample_without_a_picture_are_invalid():
    wrong = score("union_iou", said([[0, 0, 10, 10]]), [[400, 300, 900, 800]])
    assert wrong.status == "invalid"
    assert "is not in a picture of 100x100 pixels" in wrong.reason
    none = score("union_iou", said([[0, 0, 10, 10]]), [[0, 0, 10, 10]], media=())
    assert none.status == "invalid"
    assert "shown 0 pictures" in none.reason


def test_details_hold_the_boxes_in_original_pixels_for_the_report():
    media = Media(View(), (200, 100), (100, 50), "seen")
    assert score("box_iou", "[1, 2, 3, 4]", [0, 0, 10, 10], [media]).details["boxes"] == [[2.0, 4.0, 6.0, 8.0]]
    assert score("box_iou", "no", [0, 0, 10, 10], [media]).details["why"] == "no readable boxes"


def test_an_unknown_place_is_told():
    assert "expected auto, tag:NAME" in score("box_iou", "[1, 2, 3, 4]", [0, 0, 10, 10], where="fence").reason
    with pytest.raises(RewardError, match="did you mean 'picture'"):
        load_reward("grounding.box_iou", {"pictures": 1})
