"""MGPO: always two turns, the table of its validity rules, the crop from the original, the cut behind the fence."""

from __future__ import annotations

import pytest

from mmrl.environments.mgpo import Mgpo, MgpoOptions
from mmrl.media import IMAGE

ORIGINAL = (2000, 1000)
PLAIN = MgpoOptions(min_pixels=None, max_pixels=None)


def half(size):
    return (size[0] // 2, size[1] // 2)


def pointing(*box, label='"cup"'):
    return f'The cup.\n```json\n[{{"bbox_2d": {list(box)}, "label": {label}}}]\n```'


@pytest.fixture
def game(play):
    return play(Mgpo(PLAIN), f"{IMAGE}\nWhat colour is the cup?", [ORIGINAL], seen=half)


# The model saw 1000 x 500 pixels. The released rule: x1 < x2, y1 < y2, all >= 0, x2 <= 1000, y2 <= 500, both sides
# above 28, ratio of sides below 100. The crop is twice the box.
@pytest.mark.parametrize(
    ("box", "crop", "region"),
    [
        ((100, 50, 300, 250), "ok", (200, 100, 600, 500)),
        ((0, 0, 1000, 500), "ok", (0, 0, 2000, 1000)),
        ((0, 0, 29, 29), "ok", (0, 0, 58, 58)),
        ((300, 50, 100, 250), "reversed", None),
        ((100, 250, 300, 50), "reversed", None),
        ((100, 50, 100, 250), "reversed", None),
        ((-1, 50, 300, 250), "outside", None),
        ((100, -1, 300, 250), "outside", None),
        ((100, 50, 1001, 250), "outside", None),
        ((100, 50, 300, 501), "outside", None),
        ((100, 50, 128, 250), "small", None),
        ((100, 50, 300, 78), "small", None),
    ],
)
def test_the_table_of_validity(game, box, crop, region):
    text = pointing(*box)
    reply = game.say(text)
    assert game.info["crop"] == crop
    assert game.info["box"] == [2 * v for v in box]
    assert reply.views[0].crop == (None if region is None else tuple(map(float, region)))
    assert reply.keep == len(text)
    assert game.say("\\boxed{B}") is None


def test_long_boxes_are_thin(play):
    game = play(Mgpo(PLAIN), f"{IMAGE}?", [(8000, 200)])
    assert game.say(pointing(0, 0, 2900, 29)).views[0].crop is None
    assert game.info["crop"] == "thin"
    game = play(Mgpo(PLAIN), f"{IMAGE}?", [(8000, 200)])
    assert game.say(pointing(0, 0, 2899, 29)).views[0].crop == (0, 0, 2899, 29)


def test_a_crop_that_is_thin_in_the_original_alone(play):
    """The processor makes 300 x 30 of 3000 x 60 and of 30000 x 60: a box of 290 x 29 is 2900 x 58, and 29000 x 58."""

    def squeezed(size):
        return (300, 30) if size[1] == 60 else size

    game = play(Mgpo(PLAIN), f"{IMAGE}?", [(3000, 60)], seen=squeezed)
    assert game.say(pointing(0, 0, 290, 29)).views[0].crop == (0, 0, 2900, 58)
    game = play(Mgpo(PLAIN), f"{IMAGE}?", [(30000, 60)], seen=squeezed)
    assert game.say(pointing(0, 0, 290, 29)).views[0].crop is None
    assert game.info["crop"] == "thin"


@pytest.mark.parametrize(
    ("text", "crop"),
    [
        ("A red cup.", "no_json"),
        ("```json\n[{\n```", "bad_json"),
        ("```json\n[]\n```", "no_box"),
        ('```json\n[{"bbox_2d": [NaN, 0, 9, 9]}]\n```', "not_finite"),
        ("```json\n" + '[{"bbox_2d": [0, 0, 1' + "0" * 400 + ", 9]}]\n```", "not_finite"),
    ],
)
def test_without_a_box_the_whole_picture_is_shown_again(game, text, crop):
    reply = game.say(text)
    assert (game.info["crop"], reply.views[0].crop) == (crop, None)
    assert (reply.keep is None) == (crop != "not_finite")
    assert "What colour is the cup?" in reply.text


def test_what_stands_behind_the_fence_is_forgotten(game):
    text = pointing(100, 50, 300, 250)
    game.say(f"{text}\nAnd so the answer is \\boxed{{A}}, surely.")
    assert game.episode.said == [text]
    assert [m.view.crop for m in game.episode.media] == [None, (200.0, 100.0, 600.0, 500.0)]


def test_a_turn_that_its_budget_cut_is_answered_too(game):
    assert game.say(f"{pointing(100, 50, 300, 250)} and on and on", finished=False).views[0].crop is not None
    assert game.say("so \\boxed{", finished=False) is None


@pytest.mark.parametrize(
    ("space", "box"),
    [("norm1000", (100, 100, 300, 500)), ("norm1", (0.1, 0.1, 0.3, 0.5)), ("original", (200, 100, 600, 500))],
)
def test_other_families_write_other_coordinates(play, space, box):
    game = play(Mgpo(PLAIN), f"{IMAGE}?", [ORIGINAL], seen=half, space=space)
    assert game.say(pointing(*box)).views[0].crop == (200.0, 100.0, 600.0, 500.0)


def test_pictures_are_resized_into_the_bounds_by_one_factor(play):
    options = MgpoOptions(min_pixels=40_000, max_pixels=500_000)
    game = play(Mgpo(options), f"{IMAGE}?", [ORIGINAL])
    assert game.context.views[0].size == (1000, 500)
    # 100 x 50 of the 1000 x 500 that were seen: 200 x 100 of the original, enlarged to 283 x 142 >= 40,000.
    assert game.say(pointing(0, 0, 100, 50)).views[0].size == (283, 142)


def test_the_second_turn_asks_the_question_again_and_the_first_asks_for_a_box(play):
    options = MgpoOptions(crop=f"Zoomed {IMAGE}: {{question}}", ask="Where?", system=None)
    game = play(Mgpo(options), "unused", [ORIGINAL], seen=half, messages=[{"role": "user", "content": "What colour?"}])
    assert game.context.messages == [{"role": "user", "content": f"{IMAGE}What colour?\nWhere?"}]
    assert game.say(pointing(100, 50, 300, 250)).text == f"Zoomed {IMAGE}: What colour?"


def test_a_record_without_its_one_picture_is_named(play):
    with pytest.raises(ValueError, match="'q1' has 2 pictures"):
        play(Mgpo(), "?", [ORIGINAL, ORIGINAL])
