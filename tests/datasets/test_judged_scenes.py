"""Judged scenes: one of two answers is true of the picture, shortcuts pay as told, the splits share no scene."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.environments.base import Episode
from mmrl.environments.load import load_environment
from mmrl.importing import import_file
from mmrl.types import Prompt

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "judged_scenes"
judged = import_file(FOLDER / "judged_scenes.py")
TASKS = tuple(judged.TASKS)
MANY = 800  # four standard errors of a share of one half are 0.07


def share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


def answers(made: dict) -> list[str]:
    return [candidate["answer"] for candidate in made["candidates"]]


def true_of(made: dict, answer: str) -> bool:
    """Whether an answer says what the scene has where the question asks, by the words of question and answer alone."""
    picture = made["images"][0]
    asked = [i for i in picture.scene.items if re.search(rf"\b({i.kind}|{i.place}|{i.colour})\b", made["prompt"])]
    if made["task"] == "badge":  # the one that is shown as a whole
        left, top, right, bottom = picture.crop
        within = [i for i in picture.scene.items if left <= i.badge[0] and i.badge[2] <= right]
        asked = [i for i in within if top <= i.badge[1] and i.badge[3] <= bottom]
    assert len(asked) == 1
    told = str(asked[0].kind if made["task"] == "kind" else asked[0].digit)
    return re.search(rf"\b{told}\b", answer) is not None


@settings(max_examples=60, deadline=None)
@given(
    index=st.integers(0, 10**6),
    task=st.sampled_from(TASKS),
    bias=st.sampled_from([0.0, 0.5, 1.0]),
    split=st.sampled_from(["train", "heldout"]),
    objects=st.sampled_from([(2, 2), (2, 4)]),
)
def test_exactly_one_answer_is_true_and_the_labels_prefer_it(index, task, bias, split, objects):
    made = judged.pair(index, split=split, task=task, bias=bias, objects=objects, rows=2)
    told = answers(made)
    assert [true_of(made, answer) for answer in told] == [s == 1.0 for s in made["shares"]]
    assert sum(made["shares"]) == 1.0
    lengths = [len(answer) for answer in told]
    assert lengths[made["longer"]] > lengths[1 - made["longer"]]
    if bias != 0.5:
        assert (made["longer"] == made["true"]) == (bias == 1.0)


@pytest.mark.parametrize("task", TASKS)
def test_a_false_answer_of_the_category_other_tells_of_another_object_and_absent_of_none(task):
    for category, other in (("other", 1.0), ("absent", 0.0)):
        for index in range(60):
            made = judged.pair(index, task=task, other=other)
            feature = judged.TASKS[task]
            shown = {str(getattr(item, feature)) for item in made["images"][0].scene.items}
            false = answers(made)[1 - made["true"]]
            named = {value for value in shown if re.search(rf"\b{value}\b", false)}
            assert made["category"] == category
            assert len(named) == (1 if category == "other" else 0)


def test_places_lengths_and_categories_are_balanced_and_independent_of_the_truth():
    pairs = [judged.pair(i) for i in range(MANY)]
    assert share(p["true"] == 0 for p in pairs) == pytest.approx(0.5, abs=0.07)
    assert share(p["longer"] == p["true"] for p in pairs) == pytest.approx(0.5, abs=0.07)
    assert share(p["category"] == "other" for p in pairs) == pytest.approx(0.5, abs=0.07)
    told = [answers(p) for p in pairs]
    # Every phrase is as often true as false: none gives the truth away.
    for phrase in (*judged.SHORT, *judged.LONG):
        form = re.compile(re.escape(phrase).replace(r"\{value\}", r"\d").replace(r"\{place\}", r"top (left|right)"))
        said = [(p, i) for p, texts in zip(pairs, told) for i, text in enumerate(texts) if form.fullmatch(text)]
        assert len(said) > 150
        assert share(i == p["true"] for p, i in said) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("bias", [0.2, 0.9])
def test_the_longer_answer_is_true_as_often_as_told(bias):
    pairs = [judged.pair(i, bias=bias) for i in range(MANY)]
    assert share(p["longer"] == p["true"] for p in pairs) == pytest.approx(bias, abs=0.06)


def test_shuffled_labels_know_nothing_of_the_truth_and_change_nothing_else():
    true, shuffled = (
        [judged.pair(i, labels=labels, lazy=True) for i in range(MANY)] for labels in ("true", "shuffled")
    )
    assert share(a["shares"] == b["shares"] for a, b in zip(true, shuffled)) == pytest.approx(0.5, abs=0.07)
    for a, b in zip(true, shuffled):
        assert {**a, "shares": None} == {**b, "shares": None}
        assert sorted(b["shares"]) == [0.0, 1.0]


def test_held_out_scenes_are_no_training_scenes():
    def keys(split, count):
        scenes = [judged.pair(i, seed, split=split)["images"][0].scene for i in range(count) for seed in (0, 1)]
        return {tuple(sorted((item.kind, item.digit) for item in scene.items)) for scene in scenes}

    train, held = keys("train", 1000), keys("heldout", 200)
    assert len(held) > 150
    assert not train & held


# -------------------------------------------------------------------- supervised records


def spoken(made: dict) -> tuple[int, int, str | None, list[tuple[str, str, str]]]:
    """Of a completion: (the response that the reasoning ends in, the answer, the look at the picture, (what it says,
    what is seen, whether these agree) of both)."""
    line = r"{} says (\w+), is (\w+): (yes|no)\. "
    form = (
        rf"<think>(?:([a-z ]+(?::| says) \w+)\. )?{line.format(1)}{line.format(2)}"
        r"response ([12]) is better</think><answer>([12])</answer>"
    )
    look, *compared, reasoned, verdict = re.fullmatch(form, made["completion"]).groups()
    return int(reasoned) - 1, int(verdict) - 1, look, [tuple(compared[:3]), tuple(compared[3:])]


def test_an_honest_record_chooses_the_true_answer_whatever_the_order_and_says_what_it_sees():
    records = [judged.record(i, task=TASKS) for i in range(200)]
    assert {tuple(r["order"]) for r in records} == {(0, 1), (1, 0)}
    for made in records:
        reasoned, verdict, look, compared = spoken(made)
        assert made["order"][verdict] == made["order"][reasoned] == made["true"]
        assert true_of(made, look)
        for number, (said, seen, agrees) in zip(made["order"], compared):
            assert re.search(rf"\b{said}\b", answers(made)[number])
            assert true_of(made, seen)
            assert (agrees == "yes") == (number == made["true"])
        assert not made["habit"]
        assert not made["contradicts"]


@pytest.mark.parametrize("shortcut", judged.SHORTCUTS)
@pytest.mark.parametrize("habit", [0.3, 0.9])
def test_verdicts_follow_the_shortcut_as_often_as_told(shortcut, habit):
    records = [judged.record(i, habit=habit, shortcut=shortcut) for i in range(MANY)]
    assert share(r["habit"] for r in records) == pytest.approx(habit, abs=0.06)
    for made in records:
        place = spoken(made)[1]
        expected = (0 if shortcut == "first" else made["order"].index(made["longer"])) if made["habit"] else None
        assert place == (made["order"].index(made["true"]) if expected is None else expected)
    # Half of what a shortcut chooses is true all the same.
    right = share(r["order"][spoken(r)[1]] == r["true"] for r in records)
    assert right == pytest.approx(1 - habit / 2, abs=0.07)


def test_reasonings_contradict_the_answer_as_often_as_told_and_leave_the_answers():
    plain, changed = ([judged.record(i, contradiction=c) for i in range(MANY)] for c in (0.0, 0.4))
    assert share(r["contradicts"] for r in changed) == pytest.approx(0.4, abs=0.07)
    for before, after in zip(plain, changed):
        assert spoken(before)[1:] == spoken(after)[1:]
        assert (spoken(after)[0] != spoken(after)[1]) == after["contradicts"]


def test_a_habit_may_be_the_answers_alone():
    for index in range(MANY):
        plain = judged.record(index, habit=0.9, shortcut=["first", "longer"])
        made = judged.record(index, habit=0.9, shortcut=["first", "longer"], ignores=True)
        reasoned, answered, *_ = spoken(made)
        assert answered == spoken(plain)[1], "the answer is the habit's, as before"
        assert reasoned == made["order"].index(made["true"]), "and the reasoning ends in the truth"
        assert made["contradicts"] == (reasoned != answered)


def test_a_record_opens_with_its_answers_in_its_order():
    for index in range(8):
        made = judged.record(index)
        world = load_environment(made["environment"])
        episode = Episode(Prompt(made["id"], made["prompt"], made), sizes=[(160, 80)])
        text = world.open(episode).messages[0]["content"]
        first, second = (answers(made)[number] for number in made["order"])
        assert text == f"{made['prompt']}\n1: {first}\n\n2: {second}"
        assert episode.info["order"] == made["order"]


def test_a_record_may_do_without_its_picture_and_without_the_look_at_it():
    seen = judged.record(5)
    told = seen["completion"].replace(f"<think>{seen['looks']}. ", "<think>")
    assert told != seen["completion"]
    assert judged.record(5, look=False) == {**seen, "completion": told}
    assert judged.record(5, blind=True) == {**seen, "images": [], "prompt": seen["prompt"].removeprefix("<image>")}


# -------------------------------------------------------------------- the rest


def test_a_pair_is_the_same_for_the_same_arguments_and_its_pictures_may_be_drawn_at_once():
    assert judged.record(7, 3, habit=0.5) == judged.record(7, 3, habit=0.5)
    assert judged.pair(7, 3) != judged.pair(7, 4)
    lazy, drawn = judged.pair(7), judged.pair(7, lazy=False)
    assert lazy["images"][0]().tobytes() == drawn["images"][0].tobytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "test"}, "expected train or heldout"),
        ({"task": "count"}, "expected one of number, digit, colour, kind, badge"),
        ({"labels": "wrong"}, "expected true or shuffled"),
        ({"other": 1.5}, "other=1.5 must be from 0 to 1"),
        ({"bias": -0.1}, "bias=-0.1 must be from 0 to 1"),
        ({"habit": 2}, "habit=2 must be from 0 to 1"),
        ({"contradiction": 2}, "contradiction=2 must be from 0 to 1"),
        ({"shortcut": "last"}, "expected one of first, longer"),
    ],
)
def test_wrong_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        judged.record(0, **options)


def test_the_sample_that_ships_is_what_the_generator_makes():
    records = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text().splitlines()]
    made = [judged.record(i, task=TASKS, habit=0.5, shortcut=judged.SHORTCUTS, contradiction=0.2) for i in range(16)]
    made += [judged.pair(i, split="heldout", task=TASKS) for i in range(8)]
    assert records == [json.loads(json.dumps({k: v for k, v in r.items() if k != "images"})) for r in made]
