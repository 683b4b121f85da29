"""Completions that policies have been seen to find: none earns what an honest one earns (trap T12)."""

from __future__ import annotations

import json

import pytest

from mmrl.media import Media, View
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

MEDIA = Media(View(), (100, 100), (100, 100), "original")
RECORD = {
    "answer": "B",
    "choices": ["3", "7", "1", "9"],
    "caption": "a cat beside a bus",
    "boxes": [[10, 10, 30, 30]],
    "objects": [{"bbox_2d": [10, 10, 30, 30], "label": "cat"}],
}
WORD = {"answer": "seven", "caption": "a cat beside a bus"}
NUMBER = {"answer": "70"}
GRID = [[x, y, x + 20, y + 20] for x in range(0, 100, 10) for y in range(0, 100, 10)]


def score(name: str, text: str, record: dict, **options) -> float:
    prompt = Prompt("p", "Which number is on the cat?", record)
    group = Group(prompt, 0, [Sample(prompt, 0, text, media=[MEDIA])])
    score_groups([group], [load_reward(name, options)])
    found = next(iter(group.samples[0].scores.values()))
    assert found.status == "ok", found.reason
    return found.value


def tagged(answer: str) -> str:
    return f"<think>t</think><answer>{answer}</answer>"


def fenced(boxes: list, label: str = "cat") -> str:
    return "```json\n" + json.dumps([{"bbox_2d": box, "label": label} for box in boxes]) + "\n```"


# reward, options, record, honest completion (scores 1), then hacks with the most that each may earn.
CASES = [
    (
        "choice.letter",
        {},
        RECORD,
        tagged("B"),
        {
            "all letters": (tagged("A, B, C, D"), 0),
            "all in brackets": (tagged("(A) (B) (C) (D)"), 0),
            "all options": (tagged("3 7 1 9"), 0),
            "several boxes": (r"\boxed{B}\boxed{A}", 0),
            "an answer per letter": (tagged("B") + tagged("A"), 0),
            "empty": (tagged(""), 0),
            "nothing": ("", 0),
            "long": (tagged("A or B " * 10_000), 0),
        },
    ),
    (
        "exact.match",
        {"punctuation": False, "articles": False},
        WORD,
        tagged("Seven."),
        {
            "all words": (tagged("one, two, three, four, five, six, seven"), 0),
            "an answer per word": ("".join(map(tagged, ("seven", "one"))), 0),
            "draft": ("<think><answer>seven</answer></think><answer>one</answer>", 0),
            "empty": (tagged(" "), 0),
            "long": (tagged("seven " * 10_000), 0),
        },
    ),
    (
        "chart.relaxed",
        {},
        NUMBER,
        tagged("70"),
        {
            "all numbers": (tagged(" ".join(map(str, range(100)))), 0),
            "a range": (tagged("between 1 and 70"), 0),
            "empty": (tagged(""), 0),
            "long": (tagged("7" * 10_000), 0),
        },
    ),
    (
        "numeric.close",
        {"extract": "tag:answer"},
        NUMBER,
        tagged("70"),
        {
            "an answer per number": ("".join(tagged(str(n)) for n in range(60, 80)), 0),
            "empty": (tagged(""), 0),
        },
    ),
    (
        "tags.segments",
        {"names": ["think", "answer"]},
        {},
        tagged("B"),
        {
            "twice": (tagged("B") * 2, 0),
            "nested": (f"<think>{tagged('B')}</think><answer>B</answer>", 0),
            "unclosed": ("<think>t</think><answer>B", 0),
            "empty": (tagged(""), 0),
            "outside": (tagged("B") + "B", 0),
            "tags only": ("<think></think><answer></answer>", 0),
        },
    ),
    (
        "caption.overlap",
        {},
        RECORD,
        "<caption>a cat beside a bus</caption>",
        {
            "bag of words": ("<caption>bus cat beside a a</caption>", 0.5),
            "repeated": ("<caption>" + "a cat beside a bus " * 20 + "</caption>", 0.3),
            "many captions": ("<caption>a cat beside a bus</caption>" * 5 + "<caption>a</caption>", 0.2),
            "empty": ("<caption></caption>", 0),
            "long": ("<caption>" + "cat " * 5_000 + "</caption>", 0),
        },
    ),
    (
        "grounding.union_iou",
        {"count_penalty": True},
        RECORD,
        "<bbox>[[10, 10, 30, 30]]</bbox>",
        {
            "the whole picture": ("<bbox>[[0, 0, 100, 100]]</bbox>", 0.04),
            "more than the picture": ("<bbox>[[-1e6, -1e6, 1e6, 1e6]]</bbox>", 0.04),
            "a grid": (f"<bbox>{GRID}</bbox>", 0.001),
            "slices": (f"<bbox>{[[x, 10, x + 1, 30] for x in range(10, 30)]}</bbox>", 0.05),
            "infinite": ("<bbox>[[-Infinity, -Infinity, Infinity, Infinity]]</bbox>", 0),
            "not a number": ("<bbox>[[NaN, NaN, NaN, NaN]]</bbox>", 0),
            "empty": ("<bbox>[]</bbox>", 0),
            "many tags": ("<bbox>[[10, 10, 30, 30]]</bbox><bbox>[[50, 50, 60, 60]]</bbox>", 0),
        },
    ),
    (
        "grounding.box_iou",
        {},
        RECORD,
        "[10, 10, 30, 30]",
        {
            "a grid": (str(GRID), 0.25),
            "the whole picture": ("[0, 0, 100, 100]", 0.04),
            "reversed": ("[30, 30, 10, 10]", 0),
            "empty": ("", 0),
        },
    ),
    (
        "detection.average_precision",
        {},
        RECORD,
        fenced([[10, 10, 30, 30]]),
        {
            "a grid behind the right box": (fenced([[10, 10, 30, 30], *GRID]), 0.01),
            "a grid": (fenced(GRID), 0.01),
            "the same box again": (fenced([[10, 10, 30, 30]] * 4), 0.25),
            "every label": (
                json.dumps([{"bbox_2d": [10, 10, 30, 30], "label": n} for n in ("cat", "bus", "dog")]),
                0.34,
            ),
            "empty": (fenced([]), 0),
            "too many": (fenced([[10, 10, 30, 30]] * 400), 0),
        },
    ),
    (
        "detection.matched",
        {},
        RECORD,
        fenced([[10, 10, 30, 30]]),
        {
            "a grid behind the right box": (fenced([[10, 10, 30, 30], *GRID]), 0.86),
            "the whole picture": (fenced([[0, 0, 100, 100]]), 0),
            "empty": (fenced([]), 0),
        },
    ),
    (
        "tags.label",
        {"labels": ["run", "walk"]},
        {},
        "<class>run</class>",
        {
            "all labels": ("<class>run walk</class>", 0),
            "empty": ("<class></class>", 0),
        },
    ),
]


@pytest.mark.parametrize(
    ("name", "options", "record", "text", "most"),
    [
        pytest.param(name, options, record, text, most, id=f"{name}-{hack}")
        for name, options, record, honest, hacks in CASES
        for hack, (text, most) in {"honest": (honest, 1), **hacks}.items()
    ],
)
def test_no_hack_pays(name, options, record, text, most):
    value = score(name, text, record, **options)
    assert value <= most + 1e-9
    if most == 1:
        assert value == pytest.approx(1.0)
