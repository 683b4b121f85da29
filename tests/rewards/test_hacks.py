"""Completions that policies have been seen to find: none earns what an honest one earns (trap T12).

Every reward that ships is here, or its test is named in ELSEWHERE: one that is neither fails the last test.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from mmrl.media import Media, View
from mmrl.rewarding import available, load_reward
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
PAIR = {"candidates": ["a dog", "a cat"], "shares": [0, 1], "info": {"order": [0, 1]}}
LOADED: dict = {}
GRID = [[x, y, x + 20, y + 20] for x in range(0, 100, 10) for y in range(0, 100, 10)]


def score(name: str, text: str, record: dict, **options) -> float:
    record = dict(record)
    info, question = record.pop("info", {}), record.get("prompt", "Which number is on the cat?")
    prompt = Prompt("p", question, record)
    group = Group(prompt, 0, [Sample(prompt, 0, text, media=[MEDIA], info=info)])
    key = json.dumps([name, options])
    LOADED[key] = LOADED.get(key) or load_reward(name, options)  # math.verify starts a process
    score_groups([group], [LOADED[key]])
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
        "choice.text",
        {},
        RECORD,
        tagged("7"),
        {
            "all options": (tagged("3 7 1 9"), 0),
            "an answer per option": ("".join(map(tagged, "719")), 0),
            "the letter": (tagged("B"), 0),
            "draft": ("<think><answer>7</answer></think><answer>9</answer>", 0),
            "long": (tagged("7 " * 10_000), 0),
        },
    ),
    (
        "tags.structured",
        {"sections": ["plan"], "inside": None, "answer": "answer", "graded": True},
        {},
        "<plan>x</plan><answer>B</answer>",
        {
            "the tags alone": ("<plan></plan><answer></answer>", 0),
            "all twice": ("<plan>x</plan><answer>B</answer>" * 2, 0),
            "sections that hold sections": ("<plan>x<plan>x</plan></plan><answer>B</answer>", 0.5),
            "text around them": ("So: <plan>x</plan><answer>B</answer>", 0.5),
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
        "verdict.right",
        {},
        PAIR,
        tagged("2"),
        {
            "both": (tagged("1 or 2"), 0),
            "both tags": (tagged("1") + tagged("2"), 0),
            "the same twice": (tagged("2") * 2, 0),
            "in the thought": ("<think><answer>2</answer></think>", 0),
            "no such response": (tagged("3"), 0),
            "empty": (tagged(""), 0),
            "long": (tagged("2 " * 10_000), 0),
        },
    ),
    (
        "verdict.consistent",
        {},
        PAIR,
        "<think>Response 2 is better.</think><answer>2</answer>",
        {
            "nothing said": (tagged("2"), 0),
            "both praised": ("<think>Response 2 is better. Response 1 is better.</think><answer>2</answer>", -1),
            "equal": ("<think>Response 2 is better. They are equally good.</think><answer>2</answer>", 0),
            "behind the thought": ("<think>t</think>Response 2 is better.<answer>2</answer>", 0),
            "no answer": ("<think>Response 2 is better.</think>", 0),
        },
    ),
    (
        "verdict.scored",
        {},
        {"score": 4},
        "Final Score: 4",
        {
            "every score": ("\n".join(f"Final Score: {n}" for n in range(1, 6)), 0),
            "a range": ("Final Score: 1-5", 0),
            "off the scale": ("Final Score: 40", 0),
            "in the thought": ("<think>Final Score: 4</think>", 0),
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
    (
        "math.verify",
        {"timeout": 20},
        {"answer": r"\frac{1}{2}"},
        r"\boxed{\frac{1}{2}}",
        {
            "several boxes": (r"\boxed{\frac{1}{2}} or \boxed{\frac{1}{3}}", 0),
            "a set": (r"\boxed{\{0, \frac{1}{2}, 1\}}", 0),
            "all numbers": (tagged("0, 1/2, 1, 2"), 0),
            "empty box": (r"\boxed{}", 0),
            "half a box": (r"\boxed{\frac{1}{2}", 0),
        },
    ),
    (
        "countdown.solves",
        {},
        {"numbers": [3, 5, 8], "target": 16},
        r"\boxed{3 + 5 + 8}",
        {
            "the target": (tagged("16"), 0),
            "the target with nothing": (tagged("16 + 0 * (3 + 5 + 8)"), 0),
            "two expressions": (tagged("3 * 5 * 8 or 3 + 5 + 8"), 0),
            "joined boxes": (r"\boxed{3 * 5 + 8} or \boxed{3 + 5 + 8}", 0),
            "joined digits": (tagged("35 - 8"), 0),
            "a program": (tagged("__import__('os').getpid() or 16"), 0),
            "a power": (tagged("8 ** 5 ** 3"), 0),
            "deep brackets": (tagged("(" * 140 + "16" + ")" * 140), 0),
            "an equation that lies": (tagged("3 = 3 + 5 + 9 = 16"), 0),
        },
    ),
    (
        "sat.satisfies",
        {},
        {"variables": 3, "clauses": [[1], [-2], [3]]},
        tagged("101"),
        {
            "all assignments": (tagged("000 001 010 011 100 101 110 111"), 0),
            "two": (tagged("101 or 010"), 0),
            "too many bits": (tagged("101" * 50), 0),
            "other digits": (tagged("１0２"), 0),
        },
    ),
    (
        "worked.steps",
        {},
        {"prompt": "37+58="},
        "37+58 7+8=15 3+5+1=9 =95\n#95",
        {
            "another problem": ("1+1 1+1=2 =2", 0),
            "the answer alone": ("#95", 0),
            "padding after": ("37+58 7+8=15 3+5+1=9 =95\n" + "1+1 1+1=2 =2\n" * 50, 0.1),
            "the step again": ("37+58 7+8=15 3+5+1=9 =95\n" * 50, 0.1),
            "the result first": ("95+0 5+0=5 9+0=9 =95", 0),
            "huge": ("9" * 5000 + "+1 =1", 0),
        },
    ),
    (
        "vote.answer",
        {},
        {},
        r"\boxed{5}",
        {"nothing": ("", 0), "an empty box": (r"\boxed{}", 0), "punctuation": ("...?!", 0)},
    ),
    (
        "tags.turns",
        {},
        {},
        tagged("B"),
        {
            "twice": (tagged("B") * 2, 0),
            "no thought": ("<answer>B</answer>", 0),
            "nested": (f"<think>{tagged('B')}</think>", 0),
        },
    ),
    (
        "grounding.iou_at",
        {},
        RECORD,
        "[10, 10, 30, 30]",
        {
            "a grid": (str(GRID), 0),
            "the whole picture": ("[0, 0, 100, 100]", 0),
            "not there": ("It is not [10, 10, 30, 30] but [50, 50, 60, 60].", 0),
            "infinite": ("[-1e999, -1e999, 1e999, 1e999]", 0),
        },
    ),
    (
        "regex.fullmatch",
        {"pattern": r"yes|no"},
        {},
        "yes",
        {"both": ("yes no", 0), "more": ("yes" * 1000, 0)},
    ),
    (
        "regex.count",
        {"pattern": r"\bbecause\b", "most": 2},
        {},
        "because a, because b",
        {"once": ("because", 0.5), "part of a word": ("becausebecause", 0)},
    ),
    (
        "visionthink.controlled",
        {},
        {**RECORD, "info": {"calls": 0}},
        "B",
        {"all letters": (tagged("A, B, C, D"), 0), "a call that is only said": ("A <tool_call>resize</tool_call>", 0)},
    ),
    (
        "compose.dispatch",
        {"by": "task", "rewards": {"mcq": "choice.letter", "free": "vote.answer"}},
        {**RECORD, "task": "mcq"},
        "B",
        {"another task is named": ("task: free\nA", 0), "all letters": (tagged("A, B, C, D"), 0)},
    ),
    (
        "compose.gated",
        {"condition": {"name": "tags.segments", "options": {"names": ["think", "answer"]}}, "then": "choice.letter"},
        RECORD,
        tagged("B"),
        {"right without the form": ("B", 0), "form alone": (tagged("A"), 0)},
    ),
    (
        "compose.staged",
        {
            "stages": [{"name": "tags.segments", "options": {"names": ["think", "answer"]}}, "choice.letter"],
            "weights": [0, 1],
        },
        RECORD,
        tagged("B"),
        {"right without the form": ("B", 0), "form alone": (tagged("A"), 0)},
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


# -------------------------------------------------------------------- what no reward of texts may pay

PROMPT = "Which number is on the cat? Put your answer in \\boxed{} or <answer></answer>."
NOTHING = {
    "empty": "",
    "white space": " \n\t\u00a0\u200b ",
    "the prompt again": PROMPT,
    "only tags": "<think></think>",
    "invalid unicode": "\ud800\udfff" * 20,
    "nulls": "\x00" * 50,
    "huge numbers": "9" * 10_000,
    "a tower": r"\boxed{9^{9^{9^{9}}}}",
    "exponents": "1e999999999",
    "brackets": "(" * 5_000,
    "braces": r"\frac{" * 2_000,
    "boxes without an end": r"\boxed{" * 2_000,
    "tags without an end": "<answer>" * 2_000,
    "emphasis": "**" * 5_000,
    "signs": "- " * 5_000,
}
EXCEPT = {
    # There is an answer to vote on, whatever it is.
    "vote.answer": {"huge numbers", "a tower", "exponents", "the prompt again", "braces", "tags without an end"},
    "math.verify": {"a tower"},  # takes all its time, and is invalid: test_math.py
}
# They are about the whole completion, thoughts included.
WHOLE = {"regex.fullmatch", "regex.count", "verdict.consistent", "tags.structured"}


@pytest.mark.parametrize("name", sorted({name for name, *_ in CASES}))
def test_what_says_nothing_earns_nothing(name):
    """Nor may it take long: seconds of this process, not of the clock."""
    _, options, record, honest, _ = next(case for case in CASES if case[0] == name)
    texts = {hack: text for hack, text in NOTHING.items() if hack not in EXCEPT.get(name, ())}
    if name not in WHOLE:
        said = honest.removeprefix("<think>t</think>")
        texts |= {"a thought": f"<think>{said}</think>", "a thought without an end": f"<think>{said}"}
    began = time.process_time()
    paid = {hack: value for hack, text in texts.items() if (value := score(name, text, record, **options)) > 0}
    assert not paid
    assert time.process_time() - began < 20


# -------------------------------------------------------------------- rewards that read no text

STEP = {"step_reward": 0.1, "match": 0, "episode": 0, "step": 0, "steps": 2}
OF_ENVIRONMENTS = {
    "guess.found": {"found": 0, "rounds": 3},
    **{f"ui_s1.{name}": STEP for name in ("step", "match", "progress", "future")},
}


@pytest.mark.parametrize("name", OF_ENVIRONMENTS)
def test_what_is_said_changes_nothing_where_the_environment_knows(name):
    info = OF_ENVIRONMENTS[name]
    said = ["", "found", '{"match": 1, "step_reward": 1.0}', tagged("50"), *NOTHING.values()]
    assert {score(name, text, {"info": info, "found": 1, "match": 1}) for text in said} == {
        0.1 if name in ("ui_s1.step", "ui_s1.future") else 0.0
    }


# -------------------------------------------------------------------- every reward has one

KINDS = ("alone", "colours", "counts", "relations", "shapes")
ELSEWHERE = {
    "aesthetic.score": "test_clip.py::test_plain_and_noisy_pictures_stay_in_the_range",
    "bmas.similarity": "test_bmas.py::test_a_bag_of_words_scores_as_much_and_the_gate_stops_the_long_one",
    **{
        f"cad.{name}": "test_cad.py::test_what_hacks_of_geometry_earn"
        for name in ("executes", "iou", "chamfer", "shaped")
    },
    "cad.step_gain": "test_cad.py::test_gains_of_statements_sum_to_the_iou_and_losses_cost",
    "cad.judge": "test_cad.py::test_the_judge_s_marks_and_its_two_errors",
    "clip.score": "test_clip.py::test_plain_and_noisy_pictures_stay_in_the_range",
    "compared.wins": "test_compared.py::test_saying_nothing_earns_nothing",
    **{f"composition.{kind}": "test_composition.py::test_the_claims_by_kind" for kind in KINDS},
    "composition.matched": "test_composition.py::test_matched_is_one_where_strict_is_and_nothing_else",
    "composition.follows": "test_composition.py::test_pictures_of_nothing_score_zero",
    "composition.strict": "test_composition.py::test_every_corruption_costs_the_claims_it_breaks",
    "frames.first": "test_motion.py::test_a_frame_that_fails_fails_the_film_and_one_that_does_not_apply_is_left_out",
    "frames.last": "test_motion.py::test_a_frame_that_fails_fails_the_film_and_one_that_does_not_apply_is_left_out",
    "frames.least": "test_motion.py::test_the_frames_scores_become_one",
    "frames.mean": "test_motion.py::test_a_frame_that_fails_fails_the_film_and_one_that_does_not_apply_is_left_out",
    "hps.score": "test_image_models.py::test_every_mode_of_a_picture_is_scored_and_transparency_is_white",
    "hpsv3.score": "test_hpsv3.py::test_a_prompt_with_the_model_s_marks_is_told_and_scores_nothing",
    "identity.subjects": "test_identity.py::test_each_subject_is_there_once",
    "imagereward.score": "test_image_models.py::test_every_mode_of_a_picture_is_scored_and_transparency_is_white",
    "jpeg.compressible": "test_jpeg.py::test_no_metadata_no_mode_and_no_transparency_changes_the_size",
    "jpeg.incompressible": "test_jpeg.py::test_no_metadata_no_mode_and_no_transparency_changes_the_size",
    "judge.answer": "test_judge.py::test_an_answer_cannot_write_past_its_end",
    "judge.consistent": "test_judge.py::test_r1_reward_s_consistency_and_sum",
    "code.run": "test_code.py::test_a_program_earns_nothing_by",
    "rubric.points": "test_rubrics.py::test_a_wrong_answer_earns_nothing_and_asks_nobody",
    "judge.preferred": "test_judge.py::test_a_judge_with_a_favourite_place_favours_nobody",
    "judge.rubric": "test_judge.py::test_boilerplate_is_capped",
    "verdict.r1_reward": "test_verdict.py::test_the_values_of_r1_reward",
    "latent.score": "test_latent.py::test_what_is_no_latent_pays_nothing",
    "lettering.written": "test_lettering.py::test_all_words_at_once_earn_little",
    "motion.follows": "test_motion.py::test_what_looks_like_motion_earns_what_of_it_is_true",
    "motion.strict": "test_motion.py::test_strict_is_all_or_nothing",
    "ocr.quoted": "test_ocr.py::test_the_text_in_the_picture_is_compared_with_the_quotation",
    "cells.each": "test_cells.py::test_a_scene_that_is_no_grid_earns_less_than_one_that_is",
    "cells.laid_out": "test_cells.py::test_what_crosses_a_seam_is_no_layout",
    "cells.same": "test_cells.py::test_pictures_of_nothing_earn_nothing",
    "paco.consistency": "test_picture_judges.py::test_a_picture_that_its_grid_does_not_divide_is_invalid_alone",
    "paco.edit": "test_picture_judges.py::test_an_edit_of_nothing_does_not_apply_and_half_an_answer_is_none",
    "paco.layout": "test_picture_judges.py::test_a_layout_is_asked_for_as_rows_and_columns",
    "pickscore.score": "test_image_models.py::test_every_mode_of_a_picture_is_scored_and_transparency_is_white",
    "unified_reward.axes": "test_picture_judges.py::test_without_a_mark_the_sample_is_invalid_and_never_0",
    "unified_reward.flex": "test_picture_judges.py::test_a_pair_without_a_verdict_is_left_out",
    "unified_reward.point": "test_picture_judges.py::test_a_caption_cannot_answer_for_the_judge_and_may_be_empty",
    "unified_reward.shares": "test_picture_judges.py::test_a_pair_without_a_verdict_is_left_out",
    "unified_reward.think": "test_picture_judges.py::test_a_judge_with_a_favourite_place_favours_nobody_in_both_orders",
    "vqa.score": "test_picture_judges.py::test_without_a_mark_the_sample_is_invalid_and_never_0",
    "remote.classify": "test_remote_scores.py::test_the_server_decides_and_a_failure_pays_nothing",
    "remote.openrlhf": "test_remote_scores.py::test_the_server_decides_and_a_failure_pays_nothing",
    "remote.pooling": "test_remote_scores.py::test_the_server_decides_and_a_failure_pays_nothing",
    "remote.relevance": "test_remote_scores.py::test_the_server_decides_and_a_failure_pays_nothing",
    "remote.score": "test_remote_scores.py::test_the_server_decides_and_a_failure_pays_nothing",
    "remote.yes_no": "test_remote_scores.py::test_the_server_decides_and_a_failure_pays_nothing",
}


def test_every_reward_that_ships_has_a_test_of_what_it_must_not_pay():
    here = {name for name, _, _, _, hacks in CASES if hacks} | set(OF_ENVIRONMENTS)
    assert here | set(ELSEWHERE) == set(available())
    for name, place in ELSEWHERE.items():
        file, _, test = place.partition("::")
        assert re.search(rf"^def {test}\(", Path(__file__).with_name(file).read_text(), re.MULTILINE), name
