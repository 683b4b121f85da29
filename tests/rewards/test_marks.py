"""What judges of pictures write: tables of replies and what they say, refusals and slips among them."""

from __future__ import annotations

import importlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.rewarding import load_reward


@pytest.fixture(scope="module")
def marks():
    """rewards/marks.py, as the loader imports it."""
    reward = load_reward("unified_reward.point", {"judge": {"url": "http://localhost/v1", "model": "m"}})
    return importlib.import_module(type(reward.call).__module__.rpartition(".")[0] + ".marks")


FINAL = [
    ("Final Score: 4", 4),
    ("Final Score: 3.5", 3.5),
    ("Final Score: 3,5", 3.5),
    ("final score = 2", 2),
    ("cat (object): 1\nred (attribute): 0\nFinal Score: 3", 3),
    ("**Final Score:** 4.0", 4),
    ("Final Score: **4**.", 4),
    ("Final Score (1-5): 2", 2),
    ("Final Score: 4/5", 4),
    ("Final Score: 4 out of 5", 4),
    ("Final Score: [3]", 3),
    ("Final Score:\n5", 5),
    ("Final Score：1", 1),
    ("Final Score: 4\n- 5 objects are there", 4),
    ("<think>Final Score: 1? No.</think>Final Score: 4", 4),
    ("Final Score: 4\nFinal Score: 4.0", 4),
    ("Final Score: 2.694700002670288", 2.694700002670288),
    ("Final Score: 3, for the cat is there.", 3),
    # several, unclear, out of range
    ("Final Score: 4, no: Final Score: 2", None),
    ("Final Score: 3 or 4", None),
    ("Final Score: 3-4", None),
    ("Final Score: between 3 and 4", None),
    ("Final Score: 0", None),
    ("Final Score: 6", None),
    ("Final Score: 10", None),
    ("Final Score: 5.5", None),
    ("Final Score: -3", None),
    ("Final Score: 4/10", None),
    ("Final Score: 80%", None),
    ("Final Score: 4 / 10", None),
    ("Final Score: 4 out of 10", None),
    ("Final Score: 4 out of 50", None),
    ("Final Score: **4**/10", None),
    ("Final Score: 4 of 10", None),
    ("Final Score: 4 %", None),
    ("Final Score: 4 percent", None),
    ("Final Score: 4 / 5", 4),
    ("Final Score: **4** / 5", 4),
    ("Final Score: 4 of 5 points", 4),
    ("Final Score: N/A. On a scale of 1 to 5.", None),
    ("Final Score: 3.4.5", None),
    ("Final Score: 1e9", None),
    ("Final Score: four", None),
    ("Final Score: .5", None),
    ("Final Score:", None),
    ("<think>Final Score: 4", None),
    # refusals
    ("I cannot rate this image.", None),
    ("I'm sorry, but I can't help with that. 4", None),
    ("Semifinal Score: 4", None),
    ("4", None),
    ("", None),
]


@pytest.mark.parametrize(("reply", "mark"), FINAL)
def test_a_mark_is_one_clear_number_on_its_scale(marks, reply, mark):
    assert marks.said_mark(reply, "final score", 1, 5) == mark


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Alignment Score (1-5): 2.5\nCoherence Score (1-5): 3\nStyle Score (1-5): 4", [2.5, 3, 4]),
        ("Style Score (1-5): 4\nAlignment Score (1-5): 1\nCoherence Score (1-5): 2", [1, 2, 4]),
        ("**Alignment Score**: 1\n**Coherence Score**: 2\n**Style Score**: 3", [1, 2, 3]),
        ("Alignment Score (1-5): 2\nCoherence Score (1-5):\nStyle Score (1-5): 4", None),
        ("Alignment Score (1-5): 2\nStyle Score (1-5): 4", None),
        ("Alignment Score (1-5): 2\nCoherence Score (1-5): 9\nStyle Score (1-5): 4", None),
        ("", None),
    ],
)
def test_marks_on_axes_are_one_each(marks, reply, expected):
    names = ["alignment score", "coherence score", "style score"]
    assert marks.said_marks(reply, names, 1, 5) == expected


def shared(a1, a2, s1, s2) -> str:
    return f"Alignment Score:\n Image 1: {a1}\n Image 2: {a2}\n\nStyle Score:\n Image 1: {s1}\n Image 2: {s2}\n"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (shared(0.25, 0.75, 1, 0), [0.25, 1]),
        (shared("0,25", "0,75", "1.0", "0.0"), [0.25, 1]),
        (shared(0.435699999332428, 0.564300000667572, 0.5, 0.5), [0.435699999332428, 0.5]),
        (shared(0.33, 0.66, 0.5, 0.5), [1 / 3, 0.5]),  # rounded: made to sum to 1
        (
            "- Alignment Score:\n  - Image 1: 0.4\n  - Image 2: 0.6\n- Style Score:\n  - Image 1: 0\n  - Image 2: 1",
            [0.4, 0],
        ),
        ("Alignment Score: Image 1: 0.4, Image 2: 0.6\nStyle Score: Image 1: 1, Image 2: 0", [0.4, 1]),
        (shared(0.25, 0.7, 1, 0), None),  # 0.95
        (shared(0.5, 0.6, 1, 0), None),
        (shared(-0.5, 1.5, 1, 0), None),
        (shared(3, 4, 1, 0), None),
        (shared("high", "low", 1, 0), None),
        ("Alignment Score:\n Image 1: 0.4\n Image 2: 0.6\n", None),
        (shared(0.4, 0.6, 1, 0) + shared(0.9, 0.1, 1, 0), None),
        ("Both are good.", None),
    ],
)
def test_shares_of_two_pictures_sum_to_one_on_each_axis(marks, reply, expected):
    found = marks.said_shares(reply, ["alignment score", "style score"])
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("reply", "first"),
    [
        ("<think>Total score:\nImage 1: 9+8=17\nImage 2: 7+8=15</think>\n<answer>Image 1 is better</answer>", 1),
        ("<think>Image 1 is better at first.</think><answer>Image 2 is better</answer>", 0),
        ("<answer>image 2 is the better</answer>", 0),
        ("Image 1 is better than Image 2.", 1),
        ("<think>a</think>\n<answer> Image 1 is better. </answer>", 1),
        ("Image 1 is better in colour. <answer>Image 2 is better</answer>", 0),
        ("<answer>Image 1 is better</answer><answer>Image 2 is better</answer>", None),
        ("<answer>Image 2 is better</answer>\n<answer>Image 2 is better.</answer>", 0),
        ("<answer>Image 1 is better</answer><answer>Both are equal</answer>", None),
        ("Overall, Image 1 is better than Image 2 in every way.", 1),
        ("**Image 2 is better**", 0),
        ("I cannot say that Image 1 is better.", None),
        ("I don't think Image 1 is better.", None),
        ("I can\u2019t tell whether Image 1 is better.", None),
        ("It is unclear if Image 1 is better", None),
        ("Neither Image 1 is better", None),
        ("<answer>I refuse to say Image 1 is better</answer>", None),
        ("<answer>not sure Image 1 is better</answer>", None),
        ("<answer>Image 1 is better? No.</answer>", None),
        ("<think>Image 1 is better", None),
        ("<answer>Both are equal</answer>", None),
        ("<answer>Image 1 is better or Image 2 is better</answer>", None),
        ("<answer>Image 3 is better</answer>", None),
        ("<answer>Image 1 is not better</answer>", None),
        ("<answer></answer>", None),
        ("I can't compare these images.", None),
        ("", None),
    ],
)
def test_the_better_one_is_named_once(marks, reply, first):
    assert marks.said_better(reply) == first


def table(winner, *categories) -> str:
    return json.dumps({"categories": [{"name": "n", "cat_winner": c} for c in categories], "winner": winner})


@pytest.mark.parametrize(
    ("reply", "overall", "categories"),
    [
        (table("Image 1", "Image 2", "Image 1", "Image 2"), 1, (0, 1, 0)),
        ("```json\n" + table("image 2", "Image 1") + "\n```", 0, (1,)),
        (table("Image 1", "Tie", "Image 1/2", 3), 1, (0.5, 0.5, 0.5)),
        (table("Image 1"), 1, ()),
        ('{"winner": "Image 1", "categories": {"a": 1}}', 1, ()),
        ('{"winner": "Image 1", "categories": [7]}', 1, ()),
        (table("Image 1/Image 2", "Image 1"), None, ()),
        (table("neither"), None, ()),
        (table("not Image 1", "Image 1"), None, ()),
        (table("Neither, though Image 1 is close"), None, ()),
        (table("Image 2 is better"), 0, ()),
        (table("Picture 1"), 1, ()),
        (table(["Image 1"]), None, ()),
        (table("Image 2", "cannot say: Image 1"), 0, (0.5,)),
        ('{"winner": "Image 1", "winner": "Image 2"}', None, ()),
        ('{"winner": "Image 1"', None, ()),
        ('[{"winner": "Image 1"}]}', None, ()),
        ("[" * 5000 + "{" + "[" * 100_000 + "}", None, ()),
        ("Image 1", None, ()),
        ("", None, ()),
    ],
)
def test_winners_of_a_table(marks, reply, overall, categories):
    found = marks.said_winners(reply)
    assert (found and (found.overall, found.categories)) == (None if overall is None else (overall, categories))


# Words that the readers look for, in any order, with anything between.
PIECES = [
    "Final Score",
    "Alignment Score",
    "Style Score",
    "Image 1",
    "Image 2",
    " is better",
    "<answer>",
    "</answer>",
    "<think>",
]
PIECES += [
    "</think>",
    "winner",
    '"',
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    ".",
    "-",
    "/",
    "%",
    "\n",
    " ",
    "0",
    "1",
    "3",
    "5",
    "9" * 400,
    "or",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join))
@settings(max_examples=200, deadline=None)
def test_no_words_give_anything_but_a_verdict_on_its_scale_or_none(marks, reply):
    mark = marks.said_mark(reply, "final score", 1, 5)
    assert mark is None or 1 <= mark <= 5
    shares = marks.said_shares(reply, ["alignment score", "style score"])
    assert shares is None or all(0 <= share <= 1 for share in shares)
    assert marks.said_better(reply) in (None, 0.0, 1.0)
    winners = marks.said_winners(reply)
    assert winners is None or {winners.overall, *winners.categories} <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_reply_is_read_at_once(marks, piece):
    """No reader goes back over it again and again: that would never end."""
    long = piece * (100_000 // len(piece))
    for reply in (long, "Final Score: " + long, "Alignment Score:\n" + long):
        marks.said_mark(reply, "final score", 1, 5)
        marks.said_shares(reply, ["alignment score"])
        marks.said_better(reply)
        marks.said_winners(reply)
