"""VisionThink: small first, full on request, what is counted, and who decides when it is over."""

from __future__ import annotations

import pytest

from mmrl.environments.visionthink import VisionThink, VisionThinkOptions
from mmrl.media import IMAGE

CALL = '<tool_call>\n{"name": "resize_image", "arguments": {"action": "resize"}}\n</tool_call>'
PLAIN = VisionThinkOptions(min_pixels=None, max_pixels=None)


@pytest.fixture
def game(play):
    return play(VisionThink(PLAIN), f"{IMAGE}\nWhat does the sign say?", [(800, 600)])


def test_the_first_view_has_a_quarter_of_the_pixels_and_the_second_all(game):
    assert game.context.views[0].size == (400, 300)
    reply = game.say(f"<think>too small</think>{CALL}")
    assert (reply.views[0].size, reply.views[0].crop, reply.role) == (None, None, "user")
    assert game.say("<think>I see</think><answer>STOP</answer>") is None
    assert game.info == {"calls": 1, "bad_calls": 0, "over_limit": 0}


def test_an_answer_ends_it_even_next_to_a_call(game):
    assert game.say(f"<think>hm</think>{CALL}<answer>STOP</answer>") is None
    assert game.info["calls"] == 0


def test_a_call_that_was_only_thought_of_is_none(game):
    assert game.say(f"<think>{CALL}</think><answer>STOP</answer>") is None
    assert game.info["calls"] == 0


def test_neither_answer_nor_call_ends_it(game):
    assert game.say("no idea") is None


@pytest.mark.parametrize(
    "call",
    [
        "<tool_call>resize</tool_call>",
        '<tool_call>{"name": "resize_image", "arguments": {"action": "rotate"}}</tool_call>',
        '<tool_call>{"name": "zoom", "arguments": {"action": "resize"}}</tool_call>',
        '<tool_call>{"name": "resize_image"}</tool_call>',
        '<tool_call>{"name": "resize_image", "arguments": {"action": "resize"}}',
    ],
)
def test_a_bad_call_is_told_in_words_and_another_may_follow(game, call):
    reply = game.say(call)
    assert (reply.views, IMAGE in reply.text) == ((), False)
    assert game.info["bad_calls"] == 1
    assert len(game.say(CALL).views) == 1
    assert game.info["calls"] == 1


def test_a_call_beyond_the_limit_ends_it(game):
    game.say(CALL)
    assert game.say(CALL) is None
    assert game.info == {"calls": 1, "bad_calls": 0, "over_limit": 1}


def test_the_full_view_is_bounded_and_the_first_is_half_of_that(play):
    """1000 x 500 is below 512 x 512 pixels' area times 4: bounded to 250,000 it is 707 x 353."""
    game = play(VisionThink(VisionThinkOptions(min_pixels=None, max_pixels=250_000)), f"{IMAGE}?", [(1000, 500)])
    assert game.context.views[0].size == (354, 176)
    assert game.say(CALL).views[0].size == (707, 353)
    game = play(VisionThink(), f"{IMAGE}?", [(256, 256)])
    assert game.context.views[0].size is None
    assert game.say(CALL).views[0].size == (512, 512)


def test_a_record_may_set_the_first_view(play):
    game = play(VisionThink(), f"{IMAGE}?", [(800, 600)], info={"tgt_width": 100, "tgt_height": 80, "use_tool": True})
    assert game.context.views[0].size == (100, 80)
    assert game.say(CALL).views[0].size == (200, 160)


def test_all_pictures_of_a_record_come_again(play):
    game = play(VisionThink(PLAIN), f"{IMAGE}{IMAGE}?", [(80, 60), (40, 40)])
    reply = game.say(CALL)
    assert [v.picture for v in reply.views] == [0, 1]
    assert reply.text.count(IMAGE) == 2


def test_the_tool_is_described_and_a_record_needs_a_picture(game, play):
    assert '"name": "resize_image"' in game.context.messages[0]["content"]
    with pytest.raises(ValueError, match="no picture"):
        play(VisionThink(), "?")
