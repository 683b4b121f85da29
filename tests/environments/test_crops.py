"""Coordinates from what the policy wrote to the pixels it is shown (trap T4), and the published bugs as regressions."""

from __future__ import annotations

import numpy as np
from every import every
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mmrl.environments.pictures import covering, cropped, fitted, scaled
from mmrl.media import Media, View, from_original

side = st.integers(40, 3000)
shown = st.integers(28, 2000)
spaces = st.sampled_from(["seen", "norm1000", "norm1", "original"])


@st.composite
def rectangles(draw, size):
    """A rectangle of whole pixels inside a picture."""
    x1, y1 = draw(st.integers(0, size[0] - 2)), draw(st.integers(0, size[1] - 2))
    return (x1, y1, draw(st.integers(x1 + 1, size[0])), draw(st.integers(y1 + 1, size[1])))


@given(st.data(), st.tuples(side, side), st.tuples(shown, shown), spaces)
def test_a_box_of_whole_pixels_comes_back_as_the_same_pixels(data, original, seen, space):
    box = data.draw(rectangles(original))
    media = Media(View(2), original, seen, space)
    view, problem = cropped(from_original(box, media), media)
    assert problem == "ok"
    assert (view.picture, view.crop) == (2, tuple(map(float, box)))


@given(st.data(), st.tuples(side, side), st.tuples(shown, shown), spaces)
def test_a_box_inside_a_crop_comes_back_as_pixels_of_the_original(data, original, seen, space):
    window = data.draw(rectangles(original))
    width, height = window[2] - window[0], window[3] - window[1]
    if min(width, height) < 2:
        return
    part = data.draw(rectangles((width, height)))
    box = tuple(v + window[i % 2] for i, v in enumerate(part))
    media = Media(View(0, tuple(map(float, window))), original, seen, space)
    assert cropped(from_original(box, media), media)[0].crop == tuple(map(float, box))


@given(st.data(), st.tuples(st.integers(40, 120), st.integers(40, 120)), st.sampled_from([28, 32]))
def test_whole_coordinates_of_a_resized_picture_cover_their_target_and_little_more(data, original, factor):
    """A policy writes whole pixels of a copy that was rounded to multiples of 28 or 32: the crop, cut by Pillow as
    numpy slices, holds the target but for what rounding its corners lost, at most half a pixel of the copy."""
    seen = tuple(factor * max(1, round(v * 2.3 / factor)) for v in original)
    box = data.draw(rectangles(original))
    media = Media(View(), original, seen)
    written = [round(v) for v in from_original(box, media)]
    view, problem = cropped(written, media)
    if problem != "ok":
        assert min(written[2] - written[0], written[3] - written[1]) <= 0
        return
    pixels = np.arange(original[0] * original[1], dtype=np.int32).reshape(original[1], original[0])
    cut = np.asarray(Image.fromarray(pixels, mode="I").crop(view.crop))
    x1, y1, x2, y2 = map(int, view.crop)
    assert np.array_equal(cut, pixels[y1:y2, x1:x2])
    for got, asked, scale in zip(view.crop, box, 2 * [original[0] / seen[0], original[1] / seen[1]]):
        assert abs(got - asked) <= 0.5 * scale + 1


def test_the_published_bug_of_zoom_tools_is_not_ours():
    """DeepEyes crops the original with coordinates of the resized copy. Here the copy has half of each side."""
    media = Media(View(), (2000, 1000), (1000, 500))
    view, _ = cropped((100, 50, 300, 200), media)
    assert view.crop == (200.0, 100.0, 600.0, 400.0)


def test_the_published_bug_of_recomputed_sizes_is_not_ours():
    """SATORI recomputes the copy's size with bounds of its own: a small picture that the processor left at 112 x 84
    it takes for 504 x 392. The size that was really seen decides, and a processor may treat the two sides apart."""
    small = Media(View(), (110, 80), (112, 84))
    assert cropped((0, 0, 112, 84), small)[0].crop == (0.0, 0.0, 110.0, 80.0)
    assert cropped((56, 42, 112, 84), small)[0].crop == (55.0, 40.0, 110.0, 80.0)


@every(
    ("box", "problem"),
    [
        ((10, 10, 10, 60), "reversed"),
        ((60, 10, 10, 60), "reversed"),
        ((-5, 0, 50, 50), "outside"),
        ((0, 0, 201, 50), "outside"),
        ((float("nan"), 0, 50, 50), "not_finite"),
        ((0, 0, float("inf"), 50), "not_finite"),
        ((0, 0, 28, 60), "small"),
        ((0, 0, 60, 28), "small"),
        ((0, 10, 200, 39), "ok"),
        ((0, 0, 200, 100), "ok"),
    ],
)
def test_why_a_box_is_no_crop(box, problem):
    view, why = cropped(box, Media(View(), (400, 200), (200, 100)), smallest=28, aspect=100)
    assert (view is None, why) == (problem != "ok", problem)


def test_a_side_on_its_limit_stays_there_in_every_space():
    """28 pixels of the copy are 0.14 of 200: no rounding of floats lifts the side above the limit."""
    for space, unit, down in (
        ("seen", 200, 100),
        ("norm1000", 1000, 1e5 / 126),
        ("norm1", 1, 100 / 126),
        ("original", 1234, 777 / 126 * 100),
    ):
        media = Media(View(), (1234, 777), (200, 126), space)
        for start in (0.03, 0.31, 0.55):
            box = (start * unit, 0, (start + 0.14) * unit, down)
            assert cropped(box, media, smallest=28)[1] == "small"


def test_long_boxes_are_thin_and_an_aspect_on_its_limit_too():
    media = Media(View(), (4000, 100), (4000, 100))
    assert cropped((0, 0, 2999, 30), media, aspect=100)[1] == "ok"
    assert cropped((0, 0, 3000, 30), media, aspect=100)[1] == "thin"


def test_clipping_cuts_what_is_outside_and_nothing_is_left_of_a_box_that_is_all_outside():
    media = Media(View(), (400, 200), (200, 100))
    assert cropped((-50, -9, 60, 40), media, clip=True)[0].crop == (0.0, 0.0, 120.0, 80.0)
    assert cropped((150, 50, 999, 999), media, clip=True)[0].crop == (300.0, 100.0, 400.0, 200.0)
    assert cropped((210, 0, 260, 50), media, clip=True) == (None, "outside")
    assert cropped((190, 0, 260, 50), media, clip=True, smallest=28) == (None, "small")
    assert cropped((60, 0, -10, 50), media, clip=True) == (None, "reversed")


def test_the_crop_is_resized_by_one_factor():
    """200 x 100 original pixels are 20,000; four times as many is a factor of 2 on each side, a quarter is 1/2."""
    media = Media(View(), (1000, 1000), (500, 500))
    box = (100, 100, 200, 150)
    assert cropped(box, media)[0].size is None
    assert cropped(box, media, min_pixels=80_000)[0].size == (400, 200)
    assert cropped(box, media, max_pixels=5_000)[0].size == (100, 50)


@given(st.tuples(side, side), st.integers(1, 10**6), st.integers(1, 10**7))
@example((141, 141), 1, 528)  # 23 x 23, which a root gives as 22.999...
def test_fitted_keeps_the_shape_and_the_bounds(size, low, more):
    high = low + more
    width, height = fitted(size, low, high)
    area = size[0] * size[1]
    if low <= area <= high:
        assert (width, height) == size
    elif area > high:
        assert 1 in (width, height) or width * height <= high
        assert (width + 1) * (height + 1) > high
    else:
        assert width * height >= low
        assert (width - 1) * (height - 1) < low
    factor = width / size[0]
    assert abs(height - size[1] * factor) <= 1 + size[1] / size[0]


def test_scaled_rounds_and_keeps_a_pixel():
    assert scaled((333, 1), 0.5) == (166, 1)
    assert scaled((10, 30), 2) == (20, 60)


def test_covering_is_never_empty_and_never_outside():
    assert covering((3.2, 3.9, 4.0, 4.1), (10, 10)) == (3.0, 3.0, 4.0, 5.0)
    assert covering((9.9999999, 9.9999999, 10, 10), (10, 10)) == (9.0, 9.0, 10.0, 10.0)
    assert covering((-3, 2, 99, 4), (10, 10)) == (0.0, 2.0, 10.0, 4.0)
