import math
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from mmrl.rewarding import load_reward

FOLLOWS = load_reward("composition.follows").call
STRICT = load_reward("composition.strict").call
composition = sys.modules[FOLLOWS.func.__module__]

BACKGROUND = (246, 245, 240)
RED_CIRCLE = {"count": 1, "colour": "red", "shape": "circle"}
PAIR = "two red circles above a blue square"
# (colour, shape, x, y) on a 40 x 40 canvas, radius 5: what PAIR asks for.
TRUE = [("red", "circle", 10, 9), ("red", "circle", 29, 10), ("blue", "square", 20, 30)]


def draw(objects, size=40, extra=None):
    """A picture drawn by the test's own pen: `objects` as in TRUE, then `extra(pen, scale)`."""
    scale = 8 * size / 40
    canvas = Image.new("RGB", (size * 8, size * 8), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for colour, shape, x, y in objects:
        fill = composition.COLOURS[colour]
        x, y, r = x * scale, y * scale, 5 * scale
        if shape == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        elif shape == "square":
            pen.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), fill=fill)
        else:
            pen.polygon([(x, y - r), (x + 1.05 * r, y + 0.85 * r), (x - 1.05 * r, y + 0.85 * r)], fill=fill)
    if extra:
        extra(pen, scale)
    return canvas.resize((size, size), Image.Resampling.BOX)


def erase(x0, y0, x1, y1, fill=BACKGROUND):
    return lambda pen, s: pen.rectangle((x0 * s, y0 * s, x1 * s, y1 * s), fill=fill)


def true_scenes(scenes, sample, count, size, blur=0.0, noise=0.0):
    rng = np.random.default_rng(11)
    every = list(scenes.all_scenes())
    made = []
    for i in rng.integers(len(every), size=count):
        record = every[i]
        picture = scenes.draw(record["claims"], record["relation"], rng, size)
        if blur:
            pixels = ndimage.gaussian_filter(np.asarray(picture, dtype=float), (blur, blur, 0))
            pixels += rng.normal(0, noise, pixels.shape)
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        made.append(sample(record["prompt"], picture, claims=record["claims"], relation=record["relation"]))
    return made


def test_the_colours_are_those_of_the_scenes(scenes):
    assert composition.COLOURS == scenes.COLOURS
    assert set(composition.SHAPES) == set(scenes.SHAPES)
    assert set(composition.RELATIONS) == set(scenes.RELATIONS)


@pytest.mark.parametrize(
    ("count", "size", "blur", "noise"),
    [
        (2000, 40, 0, 0),
        (2000, 40, 0.4, 6),
        (200, 32, 0, 0),
        (200, 32, 0.4, 6),
        (100, 64, 0.4, 6),
        (50, 128, 0.4, 6),
    ],
)
def test_true_scenes_keep_every_claim(scenes, sample, count, size, blur, noise):
    scores = FOLLOWS(true_scenes(scenes, sample, count, size, blur, noise))
    assert np.mean([score.details["strict"] for score in scores]) >= 0.98
    assert all((score.value == 1.0) == score.details["strict"] for score in scores)


@pytest.mark.parametrize("prompt", ["a red circle", "three green triangles", PAIR])
def test_pictures_of_nothing_score_zero(sample, prompt):
    rng = np.random.default_rng(0)
    palette = np.array([*composition.COLOURS.values(), BACKGROUND], dtype=np.uint8)
    pictures = [Image.new("RGB", (40, 40), colour) for colour in [BACKGROUND, (0, 0, 0), (214, 48, 44)]]
    for _ in range(20):
        pictures.append(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)))
        speckled = np.array(BACKGROUND) + rng.normal(0, 60, (40, 40, 3))
        pictures.append(Image.fromarray(np.clip(speckled, 0, 255).astype(np.uint8)))
        pictures.append(Image.fromarray(palette[rng.integers(0, 5, (40, 40))]))
    scores = FOLLOWS([sample(prompt, picture) for picture in pictures])
    assert [score.value for score in scores] == [0.0] * len(pictures)


def blob(pen, s):
    for x, y in [(33, 28), (35, 29), (34, 31), (32, 32), (36, 33), (34, 34)]:
        pen.ellipse(((x - 1.4) * s, (y - 1.4) * s, (x + 1.4) * s, (y + 1.4) * s), fill=(40, 158, 72))


def pale(pen, s):
    pen.ellipse((6 * s, 4 * s, 16 * s, 14 * s), fill=(227, 127, 123))  # 60 % red on the background


# name: (objects, what is drawn over them, how many claims are left of the 8 of PAIR: red, red circle,
# 2 x red circle, blue, blue square, 1 x blue square, above, nothing else)
CORRUPTIONS = {
    "an extra object": ([*TRUE, ("green", "triangle", 33, 32)], None, 7),
    "one too many of the same": ([*TRUE, ("red", "circle", 20, 16)], None, 7),
    "a circle is missing": (TRUE[1:], None, 7),
    "the square is missing": (TRUE[:2], None, 4),
    "a circle is half drawn": (TRUE, erase(4, 3, 10, 15), 6),
    "a half more": ([*TRUE, ("red", "circle", 33, 30)], erase(33, 24, 40, 36), 7),
    "wrong colour": ([*TRUE[:2], ("green", "square", 20, 30)], None, 3),
    "wrong shape": ([*TRUE[:2], ("blue", "circle", 20, 30)], None, 4),
    "swapped": ([(c, s, x, 40 - y) for c, s, x, y in TRUE], None, 7),
    "a line": (TRUE, erase(2, 37, 38, 38.4, (240, 190, 30)), 7),
    "a blob": (TRUE, blob, 7),
    "a grey square": (TRUE, erase(32, 28, 38, 34, (128, 128, 128)), 7),
    "circles merged": ([("red", "circle", 15, 9), ("red", "circle", 22, 10), TRUE[2]], None, 4),
    "a pale circle": (TRUE[2:], pale, 3),
}


def test_the_true_pair_scores_one(sample):
    [score] = FOLLOWS([sample(PAIR, draw(TRUE))])
    assert score.value == 1.0
    assert len(score.details["claims"]) == 8


@pytest.mark.parametrize("size", [32, 40, 64])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_costs_the_claims_it_breaks(sample, name, size):
    objects, extra, kept = CORRUPTIONS[name]
    samples = [sample(PAIR, draw(objects, size, extra))]
    [score], [strict] = FOLLOWS(samples), STRICT(samples)
    assert score.value == kept / 8, score.details
    assert strict.value == 0.0


# Of each corruption: (F1 of objects, share of the pairs that stand as they should), by hand; two circles and one square.
MATCHED = {
    "an extra object": (6 / 7, 1.0),
    "one too many of the same": (6 / 7, 1.0),
    "a circle is missing": (4 / 5, 1 / 2),
    "the square is missing": (4 / 5, 0.0),
    "wrong colour": (4 / 6, 0.0),
    "wrong shape": (4 / 6, 0.0),
    "swapped": (1.0, 0.0),
    "a line": (6 / 7, 1.0),
    "circles merged": (2 / 5, 0.0),
}


@pytest.mark.parametrize("name", MATCHED)
def test_objects_are_matched_one_to_one(sample, name):
    objects, extra, _ = CORRUPTIONS[name]
    f1, related = MATCHED[name]
    [score] = composition.matched([sample(PAIR, draw(objects, 40, extra))])
    assert score.value == pytest.approx(0.75 * f1 + 0.25 * related)


def test_matched_is_one_where_strict_is_and_nothing_else(sample):
    pictures = [draw(TRUE), draw([]), *(draw(objects, 40, extra) for objects, extra, _ in CORRUPTIONS.values())]
    samples = [sample(PAIR, picture) for picture in pictures]
    assert [s.value == 1 for s in composition.matched(samples)] == [s.value == 1 for s in STRICT(samples)]
    assert composition.matched(samples[1:2])[0].value == 0.0
    [single] = composition.matched([sample("two red circles", draw(TRUE))])
    assert single.value == pytest.approx(4 / 5)
    assert composition.matched([sample("a horse", draw([]))])[0].status == "na"


KINDS = ("colours", "shapes", "counts", "relations", "alone")
# Of each corruption, in the order of KINDS: what is left of 2 colours, 2 shapes, 2 counts, 1 relation, nothing else.
BY_KIND = {
    "an extra object": (1.0, 1.0, 1.0, 1.0, 0.0),
    "one too many of the same": (1.0, 1.0, 0.5, 1.0, 1.0),
    "the square is missing": (0.5, 0.5, 0.5, 0.0, 1.0),
    "wrong colour": (0.5, 0.5, 0.5, 0.0, 0.0),
    "wrong shape": (1.0, 0.5, 0.5, 0.0, 0.0),
    "swapped": (1.0, 1.0, 1.0, 0.0, 1.0),
}


def test_the_claims_by_kind(sample):
    """By hand for some corruptions; for all of them the kinds together are the share of `follows`."""
    for name, (objects, extra, kept) in CORRUPTIONS.items():
        samples = [sample(PAIR, draw(objects, 40, extra))]
        found = tuple(getattr(composition, kind)(samples)[0].value for kind in KINDS)
        assert found == BY_KIND.get(name, found), name
        assert sum(n * share for n, share in zip((2, 2, 2, 1, 1), found)) == kept, name
    [alone] = composition.relations([sample("two red circles", draw(TRUE[:2]))])
    assert (alone.value, alone.status) == (None, "na")


@pytest.mark.parametrize("size", [32, 40, 64, 128])
@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
def test_a_cut_shape_has_no_name(shape, size):
    cuts = {"left": (0, 0, 18, 40), "right": (22, 0, 40, 40), "top": (0, 0, 40, 18.5)}
    if shape != "triangle":  # a triangle without its foot is a smaller triangle
        cuts["bottom"] = (0, 22, 40, 40)
    for side, box in cuts.items():
        found = composition.detect(draw([("red", shape, 20, 20)], size, erase(*box)))
        assert [f.shape for f in found] == ["unknown"], side


@pytest.mark.parametrize("size", [32, 40, 64, 128])
def test_centres_and_areas_are_those_that_were_drawn(size):
    objects = [
        ("red", "circle", 10.3, 9.6),
        ("yellow", "square", 29.7, 10.2),
        ("green", "triangle", 20.4, 30.1),
    ]
    found = {f.shape: f for f in composition.detect(draw(objects, size))}
    scale = size / 40
    areas = {"circle": math.pi * 25, "square": (2 * 0.88 * 5) ** 2, "triangle": 0.5 * (2.1 * 5) * (1.85 * 5)}
    # The centroid of the triangle lies two thirds down from its apex at y - r.
    sink = {"triangle": -5 + 1.85 * 5 * 2 / 3}
    for colour, shape, x, y in objects:
        f = found[shape]
        assert f.colour == colour
        # Pixel i covers [i, i + 1), so a coordinate of the canvas is half a pixel more than an index.
        assert f.x + 0.5 == pytest.approx(x * scale, abs=0.25)
        assert f.y + 0.5 == pytest.approx((y + sink.get(shape, 0)) * scale, abs=0.25)
        assert f.area == pytest.approx(areas[shape] * scale**2, rel=0.06)


@pytest.mark.parametrize(
    ("transpose", "opposite"),
    [
        (Image.Transpose.FLIP_LEFT_RIGHT, {"left of": "right of", "right of": "left of"}),
        (None, {r: r for r in ("left of", "right of", "above", "below")}),
    ],
)
def test_a_mirrored_picture_keeps_the_mirrored_relation(sample, transpose, opposite):
    places = {
        "left of": (8, 20, 30, 21),
        "right of": (30, 21, 8, 20),
        "above": (20, 8, 21, 30),
        "below": (20, 30, 21, 8),
    }
    for relation, kept in opposite.items():
        x, y, u, v = places[relation]
        picture = draw([("red", "circle", x, y), ("blue", "triangle", u, v)])
        if transpose is not None:
            picture = picture.transpose(transpose)
        for asked in places:
            [score] = STRICT([sample(f"a red circle {asked} a blue triangle", picture)])
            assert score.value == float(asked == kept)


def test_all_centres_of_a_relation_count(sample):
    objects = [("red", "circle", 10, 9), ("red", "circle", 29, 31), ("blue", "square", 12, 27)]
    [score] = FOLLOWS([sample(PAIR, draw(objects))])
    assert score.value == 7 / 8
    assert not score.details["claims"]["above"]


def test_the_record_is_asked_before_the_text(sample):
    claims = [{"count": 1, "colour": "blue", "shape": "square"}]
    picture = draw(TRUE[2:])
    by_record, by_text = STRICT([sample("anything", picture, claims=claims), sample("A blue square.", picture)])
    assert by_record.value == by_text.value == 1.0


def test_two_phrases_may_stand_without_a_relation(sample):
    [score] = FOLLOWS([sample("two red circles and a blue square", draw(TRUE))])
    assert score.value == 1.0
    assert len(score.details["claims"]) == 7


@pytest.mark.parametrize(
    ("text", "record", "reason"),
    [
        ("an astronaut riding a horse", {}, "not a composed scene"),
        ("a red circle near a blue square", {}, "not a composed scene"),
        ("x", {"claims": [{"count": 1, "colour": "pink", "shape": "circle"}]}, "'pink'"),
        (
            "x",
            {"claims": [{"count": 1, "colour": "red", "shape": "circle"}], "relation": "above"},
            "two claims",
        ),
    ],
)
def test_other_prompts_are_not_applicable_and_say_why(sample, text, record, reason):
    for score in (
        *FOLLOWS([sample(text, draw(TRUE), **record)]),
        *STRICT([sample(text, draw(TRUE), **record)]),
    ):
        assert (score.status, score.value) == ("na", None)
        assert reason in score.reason
