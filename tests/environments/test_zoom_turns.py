"""The zoom tool: boxes in the picture that they name, failures as words, and when it ends."""

from __future__ import annotations

import json

import pytest

from mmrl.environments.zoom import PROBLEMS, Zoom, ZoomOptions
from mmrl.media import IMAGE


def half(size):
    return (size[0] // 2, size[1] // 2)


def call(*box, name="image_zoom_in_tool", **more):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': {'bbox_2d': list(box), **more}})}</tool_call>"


@pytest.fixture
def game(play):
    return play(Zoom(), f"{IMAGE}\nWhat is on the shelf?", [(2000, 1000)], seen=half)


def test_a_region_is_cut_from_the_original_with_coordinates_of_the_copy(game):
    reply = game.say(f"<think>there</think>{call(100, 50, 300, 200)}")
    assert reply.views[0].crop == (200.0, 100.0, 600.0, 400.0)
    assert game.say("<answer>a cup</answer>") is None
    assert game.info == {"calls": 1, "failed": 0, "over_limit": 0}


def test_a_region_of_a_region_is_cut_from_the_original_too(game):
    """The region is shown as 400 x 300, of which the model saw 200 x 150: 2 original pixels for each of its own."""
    game.say(call(100, 50, 300, 200))
    reply = game.say(call(50, 75, 150, 150, image=2))
    assert reply.views[0].crop == (200.0 + 100, 100.0 + 150, 200.0 + 300, 100.0 + 300)
    assert game.say(call(100, 50, 300, 200, image=1)).views[0].crop == (200.0, 100.0, 600.0, 400.0)


def test_boxes_are_cut_to_the_picture(game):
    assert game.say(call(-50, -50, 300, 9999)).views[0].crop == (0.0, 0.0, 600.0, 1000.0)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("<tool_call>{}", "unclosed"),
        ("<tool_call>zoom!</tool_call>", "bad_json"),
        ("<tool_call>{}</tool_call>", "bad_call"),
        (call(1, 2, 3, 4, name="rotate"), "unknown_tool"),
        (call(1, 2, 3), "bad_arguments"),
        (call("a", 2, 3, 4), "bad_arguments"),
        (call(0, 0, 100, 100, image=2), "no_picture"),
        (call(0, 0, 100, 100, image=0), "no_picture"),
        (call(0, 0, 100, 100, image="1"), "no_picture"),
        (call(float("nan"), 0, 100, 100), "not_finite"),
        (call(300, 0, 100, 100), "reversed"),
        (call(1001, 0, 1200, 100), "outside"),
        (call(0, 0, 30, 100), "small"),
        (call(980, 0, 1200, 100), "small"),
    ],
)
def test_what_fails_is_told_and_it_goes_on(game, said, problem):
    reply = game.say(said)
    assert (reply.views, PROBLEMS[problem] in reply.text) == ((), True)
    assert game.info == {"calls": 0, "failed": 1, "over_limit": 0, f"failed/{problem}": 1}
    assert game.say(call(100, 50, 300, 200)).views


def test_thin_boxes(play):
    game = play(Zoom(ZoomOptions(min_side=0)), f"{IMAGE}?", [(2000, 1000)])
    game.say(call(0, 0, 1000, 10))
    assert game.info["failed/thin"] == 1


def test_failures_are_counted_by_reason(game):
    for said in (call(300, 0, 100, 100), call(9, 0, 3, 100), call(1, 2, 3)):
        game.say(said)
    assert (game.info["failed"], game.info["failed/reversed"], game.info["failed/bad_arguments"]) == (3, 2, 1)


def test_it_ends_with_an_answer_without_a_call_and_when_the_turns_are_spent(play):
    assert play(Zoom(), f"{IMAGE}?", [(100, 100)]).say(f"{call(0, 0, 50, 50)}<answer>x</answer>") is None
    assert play(Zoom(), f"{IMAGE}?", [(100, 100)]).say("I think it is a cup.") is None
    game = play(Zoom(ZoomOptions(max_turns=3)), f"{IMAGE}?", [(100, 100)])
    replies = [game.say(call(0, 0, 50, 50)) for _ in range(3)]
    assert [reply is None for reply in replies] == [False, False, True]
    assert game.info == {"calls": 2, "failed": 0, "over_limit": 1}


def test_regions_are_resized(play):
    game = play(Zoom(ZoomOptions(min_pixels=10_000)), f"{IMAGE}?", [(100, 100)])
    assert game.say(call(0, 0, 50, 50)).views[0].size == (100, 100)


def test_a_record_needs_a_picture(play):
    with pytest.raises(ValueError, match="no picture"):
        play(Zoom(), "?")
