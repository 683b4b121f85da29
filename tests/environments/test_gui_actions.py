"""Actions on a screen against tables by hand: what can be read, when two are the same, coordinates both ways."""

from __future__ import annotations

from every import every
from hypothesis import given
from hypothesis import strategies as st

from mmrl.environments.gui import MatchOptions, in_original, match, read, written
from mmrl.media import Media, View

SIZE = (1000, 2000)
DEFAULT = MatchOptions()
TARGET = [400, 900, 700, 1200]
CLICK = {"action": "click", "coordinate": [500, 1000], "bbox": TARGET}
DOWN = {"action": "swipe", "coordinate": [500, 600], "coordinate2": [500, 1800]}


WAIT = '<action>{"action": "wait"}</action>'


@every(
    ("text", "thought", "action"),
    [
        (f"<think> so </think>{WAIT}", "so", {"action": "wait"}),
        (WAIT, "", {"action": "wait"}),
        (f"<think></think>\n{WAIT}", "", {"action": "wait"}),
        (f'<think>x</think><action>{{"action": "open"}}</action>{WAIT}', "x", {"action": "wait"}),
        (f"<think>maybe {WAIT}</think>", f"maybe {WAIT}", None),
        ("<think>x</think><action>wait</action>", "x", None),
        ("<think>x</think><action>[1]</action>", "x", None),
        ('<think>x</think><action>{"action": 3}</action>', "x", None),
        ("", "", None),
    ],
)
def test_reading(text, thought, action):
    assert read(text) == (thought, action)


@every(
    ("said", "expert", "same"),
    [
        # Targets: the box is 300 x 300 about (550, 1050), enlarged to 360 x 360: from 370 to 730 and 870 to 1230.
        ({"action": "click", "coordinate": [371, 1229]}, CLICK, (True, True)),
        ({"action": "click", "coordinate": [369, 1229]}, CLICK, (True, False)),
        ({"action": "click", "coordinate": [371, 1231]}, CLICK, (True, False)),
        # Without a box: within 0.04 of the sides, 40 pixels across or 80 down.
        ({"action": "click", "coordinate": [539, 1000]}, {**CLICK, "bbox": []}, (True, True)),
        ({"action": "click", "coordinate": [541, 1000]}, {**CLICK, "bbox": []}, (True, False)),
        ({"action": "click", "coordinate": [500, 1079]}, {**CLICK, "bbox": []}, (True, True)),
        ({"action": "click", "coordinate": [529, 1059]}, {**CLICK, "bbox": []}, (True, False)),
        ({"action": "click", "coordinate": [371, 1229]}, {**CLICK, "bbox": [[0, 0, 9, 9], TARGET]}, (True, True)),
        ({"action": "long_press", "coordinate": [500, 1000]}, CLICK, (False, False)),
        ({"action": "click"}, CLICK, (True, False)),
        ({"action": "click", "coordinate": "here"}, CLICK, (True, False)),
        ({"action": "click", "coordinate": [float("nan"), 1000]}, CLICK, (True, False)),
        # Texts
        ({"action": "type", "text": " Welsh Cakes "}, {"action": "type", "text": "welsh cakes"}, (True, True)),
        ({"action": "open", "text": "Zoho Meet"}, {"action": "open", "text": "Zoho Meeting"}, (True, True)),
        ({"action": "open", "text": "Zoho Meeting app"}, {"action": "open", "text": "Zoho Meeting"}, (True, True)),
        ({"action": "type", "text": "e"}, {"action": "type", "text": "welsh cakes"}, (True, False)),
        ({"action": "type", "text": ""}, {"action": "type", "text": "welsh cakes"}, (True, False)),
        ({"action": "type", "text": 5}, {"action": "type", "text": "5"}, (True, False)),
        ({"action": "type", "text": "cakes"}, {"action": "answer", "text": "cakes"}, (False, False)),
        # Directions
        ({"action": "swipe", "coordinate": [0, 0], "coordinate2": [9, 10]}, DOWN, (True, True)),
        ({"action": "swipe", "coordinate": [0, 0], "coordinate2": [11, 10]}, DOWN, (True, False)),
        ({"action": "swipe", "coordinate": [0, 9], "coordinate2": [0, 0]}, DOWN, (True, False)),
        ({"action": "swipe", "direction": "Down"}, DOWN, (True, True)),
        ({"action": "swipe", "coordinate": [3, 3], "coordinate2": [3, 3]}, DOWN, (True, False)),
        ({"action": "swipe"}, {"action": "swipe"}, (True, False)),
        # Others
        ({"action": "wait", "time": 9}, {"action": "wait", "time": 2}, (True, True)),
        ({"action": "terminate", "status": "failure"}, {"action": "terminate", "status": "success"}, (True, True)),
        ({"action": "system_button", "button": "back"}, {"action": "system_button", "button": "Back"}, (True, True)),
        ({"action": "system_button", "button": "Home"}, {"action": "system_button", "button": "Back"}, (True, False)),
        ({"action": "fly"}, {"action": "fly"}, (True, False)),
    ],
)
def test_the_same_action(said, expert, same):
    assert match(said, expert, SIZE, DEFAULT) == same


def test_upside_down_swipes_of_the_released_data():
    up = {"action": "swipe", "coordinate": [0, 9], "coordinate2": [0, 0]}
    assert match(up, DOWN, SIZE, MatchOptions(flip_swipes=True)) == (True, True)
    assert match(DOWN, DOWN, SIZE, MatchOptions(flip_swipes=True)) == (True, False)
    left = {"action": "swipe", "coordinate": [9, 0], "coordinate2": [0, 0]}
    assert match(left, left, SIZE, MatchOptions(flip_swipes=True)) == (True, True)


def test_texts_that_must_be_equal():
    said, expert = {"action": "open", "text": "Zoho Meet"}, {"action": "open", "text": "Zoho Meeting"}
    assert match(said, expert, SIZE, MatchOptions(text="equal")) == (True, False)


@given(
    st.tuples(st.integers(0, 1079), st.integers(0, 2399)),
    st.tuples(st.integers(100, 1300), st.integers(100, 1300)),
    st.sampled_from(["seen", "norm1000", "norm1"]),
)
def test_what_is_written_for_the_expert_is_read_as_the_experts(point, seen, space):
    media = Media(View(), (1080, 2400), seen, space)
    expert = {"action": "click", "coordinate": list(point)}
    thought, action = read(written(expert, "there", media))
    assert thought == "there"
    assert match(in_original(action, media), expert, media.original, DEFAULT) == (True, True)


def test_what_the_expert_says_has_no_target_and_whole_pixels():
    media = Media(View(), (1080, 2400), (540, 1204))
    assert written(CLICK, "", media) == '<action>\n{"action": "click", "coordinate": [250, 502]}\n</action>'
