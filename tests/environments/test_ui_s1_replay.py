"""Semi-online replay: rows of their own, what each of them sees, scores by the table, patches while there are some."""

from __future__ import annotations

import json

import pytest

from mmrl.environments.ui_s1 import HIDDEN, UiS1, UiS1Options
from mmrl.media import IMAGE

STEPS = [
    {"action_content": {"action": "open", "text": "Mail"}, "screenshot": "0.png", "thought": "open it"},
    {"action_content": {"action": "click", "coordinate": [500, 1000]}, "screenshot": "1.png"},
    {"action": {"action": "type", "text": "hello"}, "screenshot": "2.png"},
    {"action_content": {"action": "terminate", "status": "success"}, "screenshot": "3.png"},
]
RIGHT = [
    '<think>a</think><action>{"action": "open", "text": "Mail"}</action>',
    '<think>b</think><action>{"action": "click", "coordinate": [250, 500]}</action>',
    '<think>c</think><action>{"action": "type", "text": "hello"}</action>',
    '<think>d</think><action>{"action": "terminate", "status": "success"}</action>',
]
WRONG = '<think>x</think><action>{"action": "wait", "time": 1}</action>'


def half(size):
    return (size[0] // 2, size[1] // 2)


@pytest.fixture
def replay(play):
    def start(steps=STEPS, **options):
        sizes = [(1000, 2000)] * len(steps)
        return play(UiS1(UiS1Options(**options)), "", sizes, seen=half, goal="Write a mail", steps=steps)

    return start


def contents(context):
    return [(m["role"], m["content"]) for m in context.messages]


def test_every_step_is_a_row_that_begins_with_the_policys_own_turns(replay):
    game = replay(system=None)
    assert contents(game.context) == [("user", f"The goal: Write a mail\n{IMAGE}")]
    rows = [game.context] + [game.say(said).restart for said in RIGHT[:3]]
    assert contents(rows[3]) == [
        ("user", f"The goal: Write a mail\n{HIDDEN}"),
        ("assistant", RIGHT[0]),
        ("user", HIDDEN),
        ("assistant", RIGHT[1]),
        ("user", IMAGE),
        ("assistant", RIGHT[2]),
        ("user", IMAGE),
    ]
    assert [[v.picture for v in row.views] for row in rows] == [[0], [0, 1], [1, 2], [2, 3]]
    assert game.say(RIGHT[3]) is None
    assert [e.info["step"] for e in game.closed] == [0, 1, 2, 3]
    assert all(e.info["step_reward"] == pytest.approx(1.0) and e.info["match"] == 1 for e in game.closed)
    assert [e.info["patches"] for e in game.closed] == [0] * 4
    assert [len(e.said) for e in game.closed] == [1] * 4, "earlier turns are context, not this row's"


# 0.1 form + 0.9 action; the action is 1 for the expert's, 0.5 for its type, 0.1 for another, 0 for none.
@pytest.mark.parametrize(
    ("said", "reward", "form", "action"),
    [
        (RIGHT[0], 1.0, 1, 1.0),
        ('<action>{"action": "open", "text": "Mail"}</action>', 0.9, 0, 1.0),
        ('<think>a</think><action>{"action": "open", "text": "Maps"}</action>', 0.55, 1, 0.5),
        ('<action>{"action": "open"}</action>', 0.45, 0, 0.5),
        (WRONG, 0.19, 1, 0.1),
        ('<action>{"action": "wait"}</action>', 0.09, 0, 0.1),
        ("<think>a</think><action>open Mail</action>", 0.0, 0, 0.0),
        ("", 0.0, 0, 0.0),
    ],
)
def test_the_score_of_a_step(replay, said, reward, form, action):
    game = replay()
    game.say(said)
    info = game.closed[0].info
    assert (info["step_reward"], info["format"], info["action"]) == (pytest.approx(reward), form, action)


def test_a_wrong_step_is_patched_while_patches_are_left(replay):
    game = replay(patches=2, system=None)
    first = game.say(WRONG).restart
    assert contents(first)[1] == (
        "assistant",
        '<think>\nopen it\n</think>\n<action>\n{"action": "open", "text": "Mail"}\n</action>',
    )
    second = game.say(WRONG).restart
    # The expert's click, in the coordinates of the screenshot as the policy saw it: half of each side.
    assert contents(second)[3] == ("assistant", '<action>\n{"action": "click", "coordinate": [250, 500]}\n</action>')
    assert game.say(WRONG) is None
    infos = [e.info for e in game.closed]
    assert [(i["match"], i["patched"], i["patches"]) for i in infos] == [(0, 1, 1), (0, 1, 2), (0, 0, 2)]
    assert infos[0] == {
        "step": 0,
        "steps": 4,
        "step_reward": pytest.approx(0.19),
        "format": 1,
        "action": 0.1,
        "match": 0,
        "patched": 1,
        "patches": 1,
    }
    assert json.loads(json.dumps(infos)) == infos


@pytest.mark.parametrize(("patches", "rows"), [(0, 1), (1, 2), (2, 3), (3, 4), (-1, 4)])
def test_how_far_a_policy_comes_that_is_always_wrong(replay, patches, rows):
    game = replay(patches=patches)
    while game.say(WRONG) is not None:
        pass
    assert len(game.closed) == rows


def test_a_turn_that_its_budget_cut_is_a_step_that_went_wrong(replay):
    game = replay()
    assert game.say("<think>and so on and", finished=False).restart is not None
    assert game.closed[0].info["step_reward"] == 0


def test_what_the_policy_says_stands_for_no_picture(replay):
    game = replay(patches=0)
    context = game.say(RIGHT[0].replace("<think>a", f"<think>{IMAGE}{IMAGE}<|image_pad|>")).restart
    assert sum(m["content"].count(IMAGE) for m in context.messages) == 2 == len(context.views)
    assert not any("<|" in m["content"] for m in context.messages)


def test_conversations_do_not_share_a_memory(play):
    environment = UiS1()
    record = {"goal": "g", "steps": STEPS}
    a, b = (play(environment, "", [(100, 100)] * 4, **record) for _ in range(2))
    a.say(RIGHT[0])
    b.say(WRONG)
    assert (a.episode.memory["patches"], b.episode.memory["patches"]) == (0, 1)


def test_all_screenshots_may_be_shown(replay):
    game = replay(screenshots=9)
    rows = [game.say(said).restart for said in RIGHT[:3]]
    assert [len(row.views) for row in rows] == [2, 3, 4]


def test_a_targets_box_may_stand_in_the_step(replay):
    steps = [{"action": {"action": "click", "coordinate": [0, 0]}, "bbox": [400, 800, 600, 1200]}]
    game = replay(steps)
    game.say(RIGHT[1])
    assert game.info["match"] == 1


@pytest.mark.parametrize(
    ("record", "pictures", "told"),
    [
        ({"steps": STEPS}, 4, "needs `goal`"),
        ({"goal": "g"}, 0, "and `steps`"),
        ({"goal": "g", "steps": []}, 0, "and `steps`"),
        ({"goal": "g", "steps": [{"screenshot": "0.png"}]}, 1, "step 0 has no `action`"),
        ({"goal": "g", "steps": STEPS}, 3, "4 steps and 3 pictures"),
    ],
)
def test_records_that_are_no_trajectory_are_named(play, record, pictures, told):
    with pytest.raises(ValueError, match=told):
        play(UiS1(), "", [(10, 10)] * pictures, **record)
