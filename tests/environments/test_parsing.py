"""What a policy wrote is read as far as it can be read, and no text makes a reader raise (trap T12)."""

from __future__ import annotations

import math

from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.environments.parsing import Call, answered, call_in, numbers, plain, pointed, spoken, tagged, whole_number
from mmrl.media import IMAGE

GOOD = '<tool_call>\n{"name": "look", "arguments": {"n": 1}}\n</tool_call>'


@every(
    ("text", "contents"),
    [
        ("<a>1</a> and <a>2</a>", ["1", "2"]),
        ("<a>open <a>inner</a> after</a>", ["inner"]),
        ("<a>left open", []),
        ("left over</a>", []),
        ("<a></a>", [""]),
        ("<a>two\nlines</a><a>x", ["two\nlines"]),
    ],
)
def test_tags_are_the_innermost_whole_ones(text, contents):
    assert tagged(text, "a") == contents


def test_tags_inside_a_thought_say_nothing():
    assert spoken("<think>or <answer>A</answer>?</think><answer>B</answer>") == "<answer>B</answer>"
    assert not answered("<think>is it <answer>A</answer>? yes</think>")
    assert call_in(f"<think>{GOOD}</think><answer>B</answer>") is None
    # The template of a thinking model may have opened the thought already.
    assert call_in(f"{GOOD}</think>done") is None


def test_an_answer_must_hold_something():
    for said in ("<think>is it <answer>A</answer>", "[THINK]<answer>A</answer>[/THINK]", "<thinking><answer>A</answer>",
                 "<|channel|>analysis<|message|><answer>A</answer>", "<answer>A</answer></think>"):  # fmt: skip
        assert not answered(said)
    assert answered("[THINK]so[/THINK]<answer>B</answer>")
    assert answered("<answer> B </answer>")
    assert not answered("<answer> \n </answer>")
    assert not answered("<answer>B")


@every(
    ("text", "problem"),
    [
        ("<tool_call>{}", "unclosed"),
        ("<tool_call>look</tool_call>", "bad_json"),
        ("<tool_call>{'name': 'look'}</tool_call>", "bad_json"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "bad_json"),
        ("<tool_call>[1]</tool_call>", "bad_call"),
        ('<tool_call>{"name": "look"}</tool_call>', "bad_call"),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', "bad_call"),
        ('<tool_call>{"name": "look", "arguments": "no"}</tool_call>', "bad_call"),
    ],
)
def test_calls_that_cannot_be_read(text, problem):
    assert call_in(text).problem == problem


def test_the_last_whole_call_counts():
    assert call_in(GOOD) == Call("look", {"n": 1})
    assert call_in("I look no further.") is None
    assert call_in(f"<tool_call>oh, <tool_call>no</tool_call> {GOOD}") == Call("look", {"n": 1})
    assert call_in('<tool_call>{"name": "look", "arguments": "{\\"n\\": 1}"}</tool_call>') == Call("look", {"n": 1})


@every(
    ("value", "read"),
    [
        ([1, 2.5], (1.0, 2.5)),
        ([1], None),
        ([1, 2, 3], None),
        ([1, "2"], None),
        ([1, True], None),
        ("12", None),
        (None, None),
        ({"0": 1, "1": 2}, None),
        ([10**400, 1], (math.inf, 1.0)),
    ],
)
def test_numbers(value, read):
    assert numbers(value, 2) == read


def fence(body, label="json"):
    return f"It is here:\n```{label}\n{body}\n```"


BOX = '[{"bbox_2d": [1, 2, 3, 4], "label": "cup"}]'


@every(
    ("text", "problem"),
    [
        ("I see nothing.", "no_json"),
        (BOX, "no_json"),
        (f"```json\n{BOX}", "no_json"),
        (fence(BOX, "python"), "no_json"),
        (fence(BOX, "jsonl"), "no_json"),
        (fence("[{]"), "bad_json"),
        (fence("[" * 100_000), "bad_json"),
        (fence('{"bbox_2d": [1, 2, 3, 4]}'), "no_box"),
        (fence("[[1, 2, 3, 4]]"), "no_box"),
        (fence("[]"), "no_box"),
        (fence('[{"box": [1, 2, 3, 4]}]'), "no_box"),
        (fence('[{"bbox_2d": [1, 2, 3]}]'), "no_box"),
        (fence('[{"bbox_2d": ["1", 2, 3, 4]}]'), "no_box"),
        (fence('[{"bbox_2d": [1, 2, 3, 4]}, 5]'), "no_box"),
    ],
)
def test_fences_without_a_box(text, problem):
    assert (pointed(text).box, pointed(text).end, pointed(text).problem) == (None, None, problem)


def test_the_first_box_of_the_first_fence_that_has_one():
    text = f"{fence('[{]')} {fence('[]')} {fence(BOX)}"
    found = pointed(f"{text} and more {fence(BOX.replace('1', '9'))}")
    assert (found.box, found.problem) == ((1.0, 2.0, 3.0, 4.0), "ok")
    assert text == f"{text} and more"[: found.end], "the turn is kept up to the end of the fence"
    two = '[{"label": "none"}, {"bbox_2d": [5, 6, 7, 8]}, {"bbox_2d": [1, 2, 3, 4]}]'
    assert pointed(fence(two)).box == (5.0, 6.0, 7.0, 8.0)


@every(
    ("text", "number"),
    [
        ("12", 12),
        ("My guess: -3.", -3),
        ("<think>1 or 2</think>I say 7", 7),
        ("<answer>4</answer> of 10", 4),
        ("<answer>4</answer> no, <answer>5</answer>", 5),
        ("1 2 3 4 5 6 7 8 9", None),
        ("<answer>1, 2, 3</answer> 4", None),
        ("3.5", None),
        ("x12", None),
        ("none", None),
        ("9" * 5000, None),
    ],
)
def test_a_number_counts_where_it_is_the_only_one(text, number):
    assert whole_number(text) == number


@given(st.text(alphabet='<>/think_calwerjson`[]{}":,0129 \n|', max_size=300))
def test_no_text_makes_a_reader_raise(text):
    for read in (answered, call_in, pointed, whole_number, lambda t: tagged(t, "answer")):
        read(text)


def test_text_that_goes_into_a_message_stands_for_no_picture():
    said = plain(f"look {IMAGE} and <|image_pad|> and <IMG_CONTEXT>")
    assert IMAGE not in said
    assert "<|" not in said
    assert "<IMG_CONTEXT>" not in said
