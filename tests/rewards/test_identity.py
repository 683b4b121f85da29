"""Subjects of reference pictures, found again in a picture: `identity.subjects`."""

from __future__ import annotations

import math
import sys
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mmrl.rewarding import RewardError, load_reward

EYES = "share://rewards/composition.py:objects"
RED, BLUE, GREEN = (214, 48, 44), (44, 92, 214), (40, 158, 72)


@pytest.fixture(scope="module")
def reward():
    return load_reward("identity.subjects", {"detector": EYES, "features": "colours"})


@pytest.fixture(scope="module")
def identities(reward):
    return next(
        module for name, module in sys.modules.items() if name.endswith(".identities") and "mmrl_rewards" in name
    )


def shapes(*drawn, side=96):
    """A white picture with squares and circles (kind, colour, column, row) of a third of it."""
    picture = Image.new("RGB", (side, side), "white")
    draw, cell = ImageDraw.Draw(picture), side // 3
    for kind, colour, column, row in drawn:
        box = [column * cell + 4, row * cell + 4, (column + 1) * cell - 5, (row + 1) * cell - 5]
        draw.ellipse(box, fill=colour) if kind == "circle" else draw.rectangle(box, fill=colour)
    return picture


def square(colour, column, row=0):
    return ("square", colour, column, row)


REFERENCES = [shapes(square(RED, 1, 1)), shapes(square(BLUE, 0, 2))]


# -------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("drawn", "value", "told"),
    [
        ([square(RED, 0), square(BLUE, 2)], 1.0, (0, 0, 0)),
        ([square(BLUE, 0), square(RED, 2)], 1.0, (0, 0, 0)),  # wherever they stand
        ([square(RED, 0)], 1 / 2, (1, 0, 0)),
        ([square(RED, 0), square(RED, 2)], 1 / 3, (1, 1, 0)),  # the same twice: one of three
        ([square(RED, 0), square(BLUE, 1), square(BLUE, 2)], 2 / 3, (0, 1, 0)),
        ([square(RED, 0), square(BLUE, 1), square(GREEN, 2)], 1.0, (0, 0, 1)),  # somebody else may be there
        ([square(GREEN, 0), square(GREEN, 2)], 0.0, (2, 0, 2)),
        ([], 0.0, (2, 0, 0)),
    ],
)
def test_each_subject_is_there_once(sample, reward, drawn, value, told):
    [score] = reward.call([sample("the two of them", shapes(*drawn), images=REFERENCES)])
    assert score.value == pytest.approx(value, abs=1e-6), score.details
    assert (score.details["missing"], score.details["doubles"], score.details["strangers"]) == told


def test_a_mixture_of_two_is_neither(sample, tmp_path):
    """Each half of the objects has the colour of one subject: cosine √½ to both, all of which is excess."""
    picture = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(picture)
    for left in (8, 56):
        draw.rectangle([left, 32, left + 15, 63], fill=RED)
        draw.rectangle([left + 16, 32, left + 31, 63], fill=BLUE)
    found = [{"box": [left, 32, left + 32, 64], "label": "square", "score": 1.0} for left in (8, 56)]
    eyes = tmp_path / "eyes.py"
    eyes.write_text(f"def see(picture):\n    return {found!r}\n")
    options = {"detector": f"{eyes}:see", "features": "colours", "cut": False}
    one = sample("both", picture, images=[Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE)])
    for more, value in (({}, 0.0), ({"mixing": 0}, math.sqrt(0.5))):
        [score] = load_reward("identity.subjects", {**options, **more}).call([one])
        assert score.value == pytest.approx(value, abs=1e-9), score.details


def test_a_subject_is_an_object_of_its_class(sample, reward):
    picture = shapes(("circle", RED, 0, 0), square(BLUE, 2))
    for names, value in ((["circle", "square"], 1.0), (["square", "square"], 1 / 2)):
        [score] = reward.call([sample("two", picture, images=REFERENCES, names=names)])
        assert score.value == pytest.approx(value, abs=1e-6), score.details


def test_what_shows_no_subjects_is_told_before_training(sample, reward):
    for record, said in (
        ({}, "shows no subjects"),
        ({"images": []}, "shows no subjects"),
        ({"images": ["no.png"]}, "which folder"),
        ({"images": REFERENCES, "names": ["cat"]}, "no list of 2 classes"),
    ):
        one = sample("two", shapes(), **record)
        [score] = reward.call([one])
        assert score.status == "na"
        assert said in reward.check_prompt(one.prompt)
    [score] = reward.call([sample("two", "no picture", images=REFERENCES)])
    assert score.status == "invalid"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": "no/such/folder/of/it"}, "there is no folder"),
        ({"features": "share://rewards/composition.py:nothing"}, "no function 'nothing'"),
        ({"detector": "share://rewards"}, "labels: name the classes"),
        ({"detector": "share://rewards/composition.py:eyes"}, "no function"),
        ({"least": 2}, "from 0 to 1"),
        ({"floor": 1}, "floor=1"),
        ({"same": 0}, "same=0"),
        ({"doubles": -1}, "doubles=-1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(RewardError, match=said):
        load_reward("identity.subjects", {"detector": EYES, "features": "colours", **options})


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_features_of_a_model_of_transformers(sample, tmp_path, kind):
    """A tiny one from its config: a picture of the references themselves scores 1, and its colours do not matter."""
    import transformers as t

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    if kind == "dinov2":
        t.Dinov2Model(t.Dinov2Config(**size)).save_pretrained(tmp_path)
    else:
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = t.CLIPConfig(text_config={**text, "vocab_size": 8}, vision_config={**size, "intermediate_size": 16})
        t.CLIPModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "size": {"height": 28, "width": 28}, "do_center_crop": false}'
    )
    reward = load_reward("identity.subjects", {"detector": EYES, "features": str(tmp_path), "cut": True})
    [score] = reward.call([sample("two", shapes(square(BLUE, 0, 2), square(RED, 1, 1)), images=REFERENCES)])
    assert score.value == pytest.approx(1.0, abs=1e-5), score.details


# -------------------------------------------------------------------- the formula


def unit(*rows):
    rows = np.asarray(rows, dtype=float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


AXES = unit([1, 0, 0], [0, 1, 0])


@pytest.mark.parametrize(
    ("objects", "rules", "value"),
    [
        ([[0.8, 0, 0.6], [0, 0.6, 0.8]], {}, (0.8 + 0.6) / 2),
        ([[0.8, 0, 0.6], [0, 0.6, 0.8]], {"floor": 0.5}, (0.6 + 0.2) / 2),
        # Like the first by 0.8 and like the second by 0.6, which the first is not at all: 0.8 - 0.6.
        ([[0.8, 0.6, 0]], {}, 0.2 / 2),
        ([[0.8, 0.6, 0]], {"mixing": 0.5}, 0.5 / 2),
        ([[0.8, 0.6, 0]], {"mixing": 0}, 0.8 / 2),
        ([[1, 0, 0], [0, 1, 0], [0.8, 0, 0.6]], {}, 2 / 3),  # the first again
        ([[1, 0, 0], [0, 1, 0], [0.8, 0, 0.6]], {"doubles": 0.5}, 2 / 2.5),
        ([[1, 0, 0], [0, 1, 0], [0.8, 0, 0.6]], {"same": 0.9}, 1.0),  # a stranger then
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], {"strangers": 1}, 2 / 3),
        ([[-1, 0, 0]], {}, 0.0),  # the opposite is nobody
        # Greedy would take 0.9 and leave 0: together 0.8 + 0.7 is more.
        ([[0.9, 0.8, 0], [0.7, 0, 0.714]], {"mixing": 0}, None),
    ],
)
def test_the_score_by_hand(identities, objects, rules, value):
    objects = unit(*objects)
    made = identities.matched(AXES, objects, identities.Rules(**rules))
    if value is None:
        value = max(sum(AXES[i] @ objects[j] for i, j in enumerate(order)) for order in permutations(range(2))) / 2
    assert made.score == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(("may", "value"), [(True, 2 / 3), (False, 1.0)])
def test_an_object_of_another_kind_is_no_double(identities, may, value):
    """The third object is just like the first subject, which it may or may not be."""
    objects, allowed = unit([1, 0, 0], [0, 1, 0], [1, 0, 0]), [[True, False, may], [False, True, False]]
    made = identities.matched(AXES, objects, identities.Rules(), allowed)
    assert (made.score, len(made.doubles)) == (pytest.approx(value), int(may))


def test_subjects_that_look_alike_are_no_mixture_of_each_other(identities):
    twins = unit([1, 0.2, 0], [1, -0.2, 0])
    assert identities.matched(twins, twins, identities.Rules()).score == pytest.approx(1.0)


features = st.lists(
    st.lists(st.floats(-1, 1, allow_nan=False), min_size=3, max_size=3).filter(lambda v: sum(x * x for x in v) > 0.01),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(features, features, st.randoms(use_true_random=False))
def test_the_order_of_subjects_and_objects_does_not_matter(identities, references, objects, random):
    references, objects = unit(*references), unit(*objects)
    rules = identities.Rules(doubles=0, strangers=0.3, mixing=0.7)
    score = identities.matched(references, objects, rules).score
    assert 0 <= score <= 1
    one, other = (
        random.sample(range(len(references)), len(references)),
        random.sample(range(len(objects)), len(objects)),
    )
    assert identities.matched(references[one], objects[other], rules).score == pytest.approx(score, abs=1e-9)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(features, features)
def test_without_penalties_it_is_the_published_assignment(identities, references, objects):
    """The largest sum over all ways to pair them, of cosines above 0, by trying each."""
    references, objects = unit(*references), unit(*objects)
    cosines = (references @ objects.T).clip(min=0)
    few = cosines if len(references) <= len(objects) else cosines.T
    best = max(sum(few[i, j] for i, j in enumerate(order)) for order in permutations(range(few.shape[1]), len(few)))
    rules = identities.Rules(mixing=0, doubles=0, strangers=0)
    assert identities.matched(references, objects, rules).score == pytest.approx(best / len(references), abs=1e-9)
