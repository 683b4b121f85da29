"""Every family's own way to write a box, read and written, with numbers by hand."""

from __future__ import annotations

import pytest
from every import every

from mmrl.boxes import SYNTAXES, Labelled, marked_boxes, read_boxes, write_boxes
from mmrl.media import Media, View, from_original

# A picture of 800 x 600, all of it; and its right half, of which the processor made 392 x 588 pixels.
WHOLE = {"view": View(), "original": (800, 600)}
HALF = {"view": View(crop=(400, 0, 800, 600)), "original": (800, 600), "seen": (392, 588)}
CAT = Labelled((200.0, 150.0, 400.0, 450.0), "cat")
DOG = Labelled((0.0, 0.0, 800.0, 600.0), "dog")

BY_HAND = {
    "qwen2_vl": (
        Media(**WHOLE, seen=(784, 588), space="norm1000", boxes="qwen2_vl"),
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(250,250),(500,750)<|box_end|>"
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(0,0),(1000,1000)<|box_end|>",
    ),
    "qwen2_5_vl": (  # pixels of the resized picture: x 784/800, y 588/600
        Media(**WHOLE, seen=(784, 588), space="seen", boxes="json"),
        '```json\n[\n\t{"bbox_2d": [196, 147, 392, 441], "label": "cat"},'
        '\n\t{"bbox_2d": [0, 0, 784, 588], "label": "dog"}\n]\n```',
    ),
    "qwen3_vl": (
        Media(**WHOLE, seen=(784, 588), space="norm1000", boxes="json"),
        '```json\n[\n\t{"bbox_2d": [250, 250, 500, 750], "label": "cat"},'
        '\n\t{"bbox_2d": [0, 0, 1000, 1000], "label": "dog"}\n]\n```',
    ),
    "internvl": (
        Media(**WHOLE, seen=(800, 600), space="norm1000", boxes="internvl"),
        "<ref>cat</ref><box>[[250, 250, 500, 750]]</box>\n<ref>dog</ref><box>[[0, 0, 1000, 1000]]</box>",
    ),
    "paligemma": (  # top, left, bottom, right in 1024ths, of which the last is 1023
        Media(**WHOLE, seen=(224, 224), space="loc1024", boxes="paligemma"),
        "<loc0256><loc0256><loc0768><loc0512> cat ; <loc0000><loc0000><loc1023><loc1023> dog",
    ),
    "llava_onevision": (
        Media(**WHOLE, seen=(800, 600), space="norm1", boxes="plain"),
        "cat: [0.25, 0.25, 0.5, 0.75]\ndog: [0, 0, 1, 1]",
    ),
}


@every("family", BY_HAND)
def test_boxes_are_written_and_read_as_the_family_does(family):
    media, text = BY_HAND[family]
    assert write_boxes([CAT, DOG], media) == text
    found = read_boxes(f"Here they are: {text}", media) if family != "llava_onevision" else read_boxes(text, media)
    assert [item.label for item in found] == ["cat", "dog"]
    assert found[0].box == pytest.approx(CAT.box, abs=0.5)
    assert found[1].box == pytest.approx(DOG.box, abs=0.8 if family == "paligemma" else 0.5)


@every("family", BY_HAND)
def test_a_box_without_a_label_is_one(family):
    media, _ = BY_HAND[family]
    (found,) = read_boxes(write_boxes([Labelled(CAT.box)], media), media)
    assert found.label == "" and found.box == pytest.approx(CAT.box, abs=0.5)
    assert read_boxes("there is none", media) == []


@every(
    ("syntax", "space", "text"),
    [
        ("qwen2_vl", "norm1000", "<|box_start|>(250,250),(750,500)<|box_end|>"),  # of the half: x 400 + 400 * 0.25
        ("json", "seen", '```json\n[\n\t{"bbox_2d": [98, 147, 294, 294]}\n]\n```'),
        ("paligemma", "loc1024", "<loc0256><loc0256><loc0512><loc0768>"),
    ],
)
def test_a_part_of_a_picture_has_its_own_numbers(syntax, space, text):
    media = Media(**HALF, space=space, boxes=syntax)
    box = (500.0, 150.0, 700.0, 300.0)
    assert write_boxes([Labelled(box)], media) == text
    assert read_boxes(text, media)[0].box == pytest.approx(box)


def test_numbers_that_lie_outside_are_brought_to_the_edge_and_pixels_are_whole():
    media = Media(**WHOLE, seen=(784, 588), space="norm1000", boxes="qwen2_vl")
    assert write_boxes([Labelled((-8.0, 0.0, 808.0, 300.2))], media) == "<|box_start|>(0,0),(1000,500)<|box_end|>"
    pixels = Media(**WHOLE, seen=(784, 588), space="seen")
    assert from_original((1.0, 1.0, 2.0, 2.0), pixels)[0] == pytest.approx(0.98)
    assert '"bbox_2d": [1, 1, 2, 2]' in write_boxes([Labelled((1.0, 1.0, 2.0, 2.0))], pixels)


@every(
    ("text", "boxes"),
    [
        ("(100,200),(300,400)", [(100, 200, 300, 400)]),  # special tokens left out of the text
        ("<|box_start|>(1,2),(3,4)<|box_end|><|box_start|>(5,6),(7,8)<|box_end|>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
    ],
)
def test_qwen2_vl_without_labels(text, boxes):
    assert [item.box for item in SYNTAXES["qwen2_vl"].read(text)] == boxes


@every(
    ("text", "found"),
    [
        (
            "<loc0100><loc0200><loc0300><loc0400> a cat ; <loc0001><loc0002><loc0003><loc0004>",
            [
                Labelled((200, 100, 400, 300), "a cat"),
                Labelled((2, 1, 4, 3)),
            ],
        ),
        (
            "<ref>a cat</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>",
            [
                Labelled((1, 2, 3, 4), "a cat"),
                Labelled((5, 6, 7, 8), "a cat"),
            ],
        ),
        ("the answer is [1, 2, 3, 4]", []),
        ("<loc0100><loc0200><loc0300>", []),
    ],
)
def test_boxes_between_marks_are_known_by_them(text, found):
    assert marked_boxes(text) == found


@every("family", ["qwen2_vl", "internvl", "paligemma", "qwen2_5_vl"])
def test_rewards_read_what_a_family_writes_labels_included(family):
    from mmrl.rewarding import load_reward
    from mmrl.types import Prompt, Sample

    media, text = BY_HAND[family]
    reward = load_reward("grounding.box_iou", {})
    prompt = Prompt("p", "Where is the cat?", {"boxes": [list(CAT.box)]})
    sample = Sample(prompt, 0, write_boxes([CAT], media), media=(media,))
    (value,) = reward.call([sample])
    assert value.value == pytest.approx(1.0, abs=0.01) and "cat" in text
