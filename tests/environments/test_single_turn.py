"""How a record opens: its messages or text, one mark for each picture, pictures at the size that was asked for."""

from __future__ import annotations

import pytest
from every import every

from mmrl.environments.opening import opening, question_of
from mmrl.environments.single import SingleTurn, SingleTurnOptions
from mmrl.media import IMAGE
from mmrl.types import Prompt


def prompt(text="", **record):
    return Prompt("q1", text, record)


def test_a_text_with_marks_is_one_message(play):
    game = play(SingleTurn(), f"Is {IMAGE} left of {IMAGE}?", [(40, 30), (20, 10)])
    assert game.context.messages == [{"role": "user", "content": f"Is {IMAGE} left of {IMAGE}?"}]
    assert [(v.picture, v.crop, v.size) for v in game.context.views] == [(0, None, None), (1, None, None)]
    assert game.say("yes") is None


def test_the_form_of_the_answer_is_asked_for_behind_the_question(play):
    game = play(SingleTurn(SingleTurnOptions(ask="In JSON.")), "Where is it?", [(40, 30)])
    assert game.context.messages == [{"role": "user", "content": f"{IMAGE}Where is it?\nIn JSON."}]


def test_pictures_come_first_where_nothing_marks_them():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]
    read = opening(prompt(messages=messages), 2)
    assert [m["content"] for m in read] == ["Be brief.", f"{IMAGE}{IMAGE}Which?"]


@every(
    "content",
    [
        [{"type": "image"}, {"type": "text", "text": "Which?"}],
        [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "Which?"}],
        [{"image": "a.png"}, {"text": "Which?"}],
        [{"type": "image", "image": "a.png"}, "Which?"],
        f"{IMAGE}Which?",
    ],
)
def test_messages_of_every_common_form(content):
    assert opening(prompt(messages=[{"role": "user", "content": content}]), 1)[0]["content"] == f"{IMAGE}Which?"


def test_an_answer_at_the_end_of_a_record_is_not_shown():
    messages = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "the cup"}]
    assert opening(prompt(messages=messages), 0) == [{"role": "user", "content": "Which?"}]


@every(
    ("record", "text", "pictures", "told"),
    [
        ({}, f"{IMAGE}{IMAGE}?", 1, "2 <image> marks and 1 pictures"),
        ({}, f"{IMAGE}?", 0, "1 <image> marks and 0 pictures"),
        ({}, f"{IMAGE}?", 2, "1 <image> marks and 2 pictures"),
        ({"messages": "hello"}, "", 0, "list of {role, content}"),
        ({"messages": [{"content": "hello"}]}, "", 0, "list of {role, content}"),
        ({"messages": []}, "", 0, "asks nothing"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "", 0, "asks nothing"),
        ({"messages": [{"role": "user", "content": 3}]}, "", 0, "content is int"),
        ({"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]}, "", 0, "neither text nor"),
    ],
)
def test_records_that_cannot_be_shown_are_named(record, text, pictures, told):
    with pytest.raises(ValueError, match=told) as error:
        opening(Prompt("q7", text, record), pictures)
    assert "'q7'" in str(error.value)


def test_system_texts_come_behind_the_records_own():
    assert opening(prompt("Q"), 0, "Tools.")[0] == {"role": "system", "content": "Tools."}
    messages = [{"role": "system", "content": "Own."}, {"role": "user", "content": "Q"}]
    read = opening(prompt(messages=messages), 0, "Tools.")
    assert [m["content"] for m in read] == ["Own.\n\nTools.", "Q"]
    assert messages[0]["content"] == "Own.", "the record stays as it is"


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scale": 0.5}, (500, 200)),
        ({"max_side": 250}, (250, 100)),
        ({"scale": 0.1, "max_side": 250}, (100, 40)),
        ({"max_side": 4000}, None),
        ({}, None),
    ],
)
def test_pictures_are_shown_smaller_and_never_larger(play, options, size):
    game = play(SingleTurn(SingleTurnOptions(**options)), f"{IMAGE}?", [(1000, 400)])
    assert game.context.views[0].size == size


def test_the_question_without_its_pictures():
    assert question_of(prompt(f"{IMAGE}\nWhich?")) == "Which?"
    assert question_of(prompt("long text", question="Which?")) == "Which?"
    parts = [{"type": "image"}, {"type": "text", "text": "Which?"}]
    assert question_of(prompt(messages=[{"role": "user", "content": parts}])) == "Which?"
