"""Detection, against precision-recall tables worked out by hand. The measure also agrees with pycocotools 2.0."""

from __future__ import annotations

import json

import pytest
from every import every

from mmrl.media import Media, View
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

PLAIN = Media(View(), (100, 100), (100, 100), "original")
HERE, THERE, AWAY = [0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]


def score(name: str, text: object, truth: object, media: Media = PLAIN, **options):
    prompt = Prompt("p", "q", {"objects": truth})
    group = Group(prompt, 0, [Sample(prompt, 0, text, media=[media])])
    reward = load_reward(f"detection.{name}", options)
    score_groups([group], [reward])
    return group.samples[0].scores[reward.name]


def objects(*found: tuple[str, list]) -> list[dict]:
    return [{"bbox_2d": box, "label": label} for label, box in found]


def said(*found: tuple[str, list]) -> str:
    return f"<think>t</think><answer>```json\n{json.dumps(objects(*found))}\n```</answer>"


@every(
    ("truth", "found", "precision", "penalised"),
    [
        ([("a", HERE)], [("a", HERE)], 1.0, 1.0),
        ([("a", HERE)], [("A ", HERE)], 1.0, 1.0),
        ([("a", HERE)], [("b", HERE)], 0.0, 0.0),
        ([("a", HERE)], [("a", AWAY)], 0.0, 0.0),
        ([("a", HERE)], [("a", [0, 0, 10, 7.8])], 0.6, 0.6),  # IoU 0.78 passes 0.5, 0.55 ... 0.75
        ([("a", HERE)], [("a", [0, 0, 10, 9.6])], 1.0, 1.0),
        # One of two is found: recall stops at 0.5, which 51 of the 101 points reach.
        ([("a", HERE), ("a", THERE)], [("a", HERE)], 51 / 101, 51 / 101),
        ([("a", HERE), ("a", THERE)], [("a", HERE), ("a", AWAY)], 51 / 101, 51 / 101),
        ([("a", HERE), ("a", THERE)], [("a", AWAY), ("a", HERE)], 51 / 202, 51 / 202),
        # Right, wrong, right: precision 1 up to recall 0.5, then 2/3.
        (
            [("a", HERE), ("a", THERE)],
            [("a", HERE), ("a", AWAY), ("a", THERE)],
            (51 + 50 * 2 / 3) / 101,
            (51 + 50 * 2 / 3) / 101 * 2 / 3,
        ),
        ([("a", HERE), ("b", THERE)], [("a", HERE)], 0.5, 0.5),
        ([("a", HERE)], [("a", HERE), ("c", AWAY)], 1.0, 0.5),  # COCO leaves out labels that are not there
        ([("a", HERE)], [("a", HERE), ("a", HERE)], 1.0, 0.5),
        ([("a", HERE)], [("a", HERE), *[("a", AWAY)] * 49], 1.0, 0.02),
        ([("a", HERE)], [*[("a", AWAY)] * 100, ("a", HERE)], 0.0, 0.0),  # COCO looks at a hundred
    ],
)
def test_average_precision(truth, found, precision, penalised):
    plain = score("average_precision", said(*found), objects(*truth), count_penalty=False)
    assert plain.value == pytest.approx(precision, abs=1e-12)
    assert score("average_precision", said(*found), objects(*truth)).value == pytest.approx(penalised, abs=1e-12)


def test_one_threshold():
    loose = score("average_precision", said(("a", [0, 0, 10, 6])), objects(("a", HERE)), thresholds=[0.5])
    assert loose.value == 1.0
    wrong = score("average_precision", "[]", [], thresholds=[0.5, 0.0])
    assert "must be one or more numbers" in wrong.reason


@every(
    ("truth", "found", "value"),
    [
        ([("a", HERE)], [("a", HERE)], 1.0),
        ([("a", HERE)], [("a", [0, 0, 10, 8])], 0.7 * 0.8 + 0.3),
        ([("a", HERE)], [("b", HERE)], 0.0),
        ([("a", HERE)], [("a", [0, 0, 10, 4])], 0.0),  # IoU 0.4 is no match
        # One of two is missed and one of two is false.
        ([("a", HERE), ("a", THERE)], [("a", [0, 0, 10, 8]), ("a", AWAY)], 0.7 * 0.8 / 2 + 0.3 * 0.5),
        ([("a", HERE), ("a", THERE)], [("a", HERE)], 0.7 / 2 + 0.3 * (1 - 0.25)),
        ([("a", HERE)], [("a", HERE), ("a", AWAY), ("a", AWAY), ("a", AWAY)], 0.7 + 0.3 * (1 - 0.375)),
        # Each box matches once: the better of the two takes it, whatever their order.
        ([("a", HERE)], [("a", [0, 0, 10, 6]), ("a", [0, 0, 10, 9])], 0.7 * 0.9 + 0.3 * (1 - 0.25)),
    ],
)
def test_greedy_matching(truth, found, value):
    assert score("matched", said(*found), objects(*truth)).value == pytest.approx(value, abs=1e-12)


def test_weights_of_greedy_matching():
    text, truth = said(("a", [0, 0, 10, 8])), objects(("a", HERE))
    assert score("matched", text, truth, location=1.0, completeness=0.0).value == pytest.approx(0.8)
    assert score("matched", text, truth, threshold=0.9).value == 0.0
    assert "need (0, 1] and a sum above 0" in score("matched", text, truth, location=0.0, completeness=0.0).reason


@every("name", ["average_precision", "matched"])
@every(
    ("text", "truth", "value"),
    [
        ("```json\n[]\n```", [], 1.0),
        ("```json\nNone\n```", [], 1.0),
        ("<answer>[]</answer>", [], 1.0),
        ("```json\n[]\n```", objects(("a", HERE)), 0.0),
        (said(("a", HERE)), [], 0.0),
        ("nothing to see", [], 0.0),  # what cannot be read is no empty list
        ("", [], 0.0),
        ("<answer></answer>", objects(("a", HERE)), 0.0),
        ('```json\n[{"label": "a"}]\n```', objects(("a", HERE)), 0.0),
        ("[0, 0, 10, 10]", objects(("a", HERE)), 0.0),  # without its label
        (said(("a", [10, 10, 0, 0])), objects(("a", HERE)), 0.0),
        (said(("a", [5, 5, 5, 5])), objects(("a", HERE)), 0.0),
        (said(("a", [0, 0, 10, float("nan")])), objects(("a", HERE)), 0.0),
        (said(("a", [0, 0, 1e300, 1e300])), objects(("a", HERE)), 0.0),
        (said(*[("a", HERE)] * 301), objects(("a", HERE)), 0.0),
    ],
)
def test_empty_lists_and_answers_that_are_none(name, text, truth, value):
    found = score(name, text, truth)
    assert (found.status, found.value) == ("ok", value)


@every("name", ["average_precision", "matched"])
def test_boxes_of_a_pixel_or_less_have_areas(name):
    # VLM-R1 counted a pixel more or less per side: two equal unit boxes had an IoU of 0, and empty ones divided by 0.
    for box in ([10, 10, 11, 11], [0.25, 0.25, 0.5, 0.75]):
        assert score(name, said(("a", box)), objects(("a", box))).value == pytest.approx(1.0)
    shares = Media(View(), (100, 100), (56, 56), "norm1")
    text = said(("a", [0.1, 0.2, 0.11, 0.21]))
    assert score(name, text, objects(("a", [10, 20, 11, 21])), shares).value == pytest.approx(1.0)


@every("name", ["average_precision", "matched"])
def test_boxes_come_from_the_space_of_the_picture_that_was_shown(name):
    seen = Media(View(), (200, 100), (100, 50), "seen")
    assert score(name, said(("a", [10, 10, 30, 40])), objects(("a", [20, 20, 60, 80])), seen).value == 1.0
    assert score(name, said(("a", [20, 20, 60, 80])), objects(("a", [20, 20, 60, 80])), seen).value == 0.0


def test_records():
    check = load_reward("detection.matched").check_prompt
    assert check(Prompt("p", "q", {"objects": []})) is None
    assert check(Prompt("p", "q", {"objects": json.dumps(objects(("a", HERE)))})) is None
    assert "lacks `objects`" in check(Prompt("p", "q", {}))
    assert "empty, reversed or not finite" in check(Prompt("p", "q", {"objects": objects(("a", [5, 5, 5, 5]))}))
    assert score("matched", said(("a", HERE)), None).status == "na"
    assert score("matched", said(("a", HERE)), json.dumps(objects(("a", HERE)))).value == 1.0
    wrong = score("matched", said(("a", HERE)), objects(("a", [5, 5, 5, 5])))
    assert (wrong.status, wrong.value) == ("invalid", None)
    assert "not in a picture" in score("matched", said(("a", HERE)), objects(("a", [500, 500, 900, 900]))).reason
