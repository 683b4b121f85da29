"""Episodes over emoji scenes: the goal's places are those of the steps' boxes, and turns are as right as they say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mmrl.environments.gui import MatchOptions, in_original, match, read
from mmrl.importing import import_file
from mmrl.media import Media, View

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "emoji_scenes"
episodes = import_file(FOLDER / "episodes.py")
# A screen of 160 x 80 at half of its sides, 80 x 40, in whole tokens of 16 x 16.
MEDIA = Media(View(), original=(160, 80), seen=(80, 32))


def side(box) -> str:
    return "top left" if box[2] <= 80 else "top right"


def right(turn: str, step: dict) -> bool:
    _, action = read(turn)
    expert = {**step["action_content"], "bbox": step["bbox"]}
    return match(in_original(action, MEDIA), expert, (160, 80), MatchOptions())[1]


def test_an_episode_by_hand():
    made = episodes.record(3)
    assert made["goal"] == "Tap top right, then top right, then top left."
    assert [s["bbox"] for s in made["steps"]] == [[87, 25, 134, 67], [87, 25, 134, 67], [15, 16, 60, 59]]
    # (87 + 134) / 2 = 110.5, (25 + 67) / 2 = 46; seen at 80/160 and 32/80 of the sides: 55.25 and 18.4.
    assert made["steps"][0]["action_content"] == {"action": "click", "coordinate": [110.5, 46.0]}
    assert made["completion"][0] == (
        '<think>\ntop right\n</think>\n<action>\n{"action": "click", "coordinate": [55, 18]}\n</action>'
    )


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_places_of_the_goal_are_where_the_boxes_are(taps):
    for index in range(100):
        made = episodes.episode(index, taps=taps)
        places = re.findall(r"top (?:left|right)", made["goal"])
        assert places == [side(s["bbox"]) for s in made["steps"]] == [s["thought"] for s in made["steps"]]
        assert len(places) == taps


def test_turns_are_right_but_for_the_habit():
    records = [episodes.record(i, habit=0.25) for i in range(200)]
    for made in records:
        rights = [right(turn, step) for turn, step in zip(made["completion"], made["steps"])]
        assert rights == [not wrong for wrong in made["habits"]]
    # 600 turns, each with 0.25: five standard deviations are 5 sqrt(600 * 0.25 * 0.75) = 53.
    assert abs(sum(sum(made["habits"]) for made in records) - 150) < 53
    assert not any(any(episodes.record(i)["habits"]) for i in range(20))


def test_the_ring_is_where_the_expert_tapped_before():
    first, second, _ = (np.asarray(step["screenshot"](), int) for step in episodes.episode(3)["steps"])
    assert first.shape == (80, 160, 3)
    rows, columns = np.nonzero(np.abs(first - second).max(-1))
    # The ring of radius 6 around (110.5, 46) begins and ends within a pixel of these edges.
    assert (
        np.abs(np.subtract([columns.min(), columns.max(), rows.min(), rows.max()], [104.5, 116.5, 40, 52])).max() <= 1
    )


def test_splits_share_no_scene_and_records_depend_on_their_index_alone():
    def keys(split):
        scenes = [episodes.episode(i, split=split)["steps"][0]["screenshot"].scene for i in range(200)]
        return {tuple(sorted((item.kind, item.digit) for item in scene.items)) for scene in scenes}

    assert not keys("train") & keys("heldout")
    assert episodes.record(7, habit=0.5) == episodes.record(7, habit=0.5)
    assert episodes.episode(7) != episodes.episode(7, seed=1)


@pytest.mark.parametrize(("options", "message"), [({"taps": 0}, "taps=0"), ({"habit": 2}, "habit=2")])
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        episodes.record(0, **options)
