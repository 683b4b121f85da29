"""Motion of drawn films: each way, and what looks like motion and is none. Frames through rewards of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from every import every
from PIL import Image

from mmrl.importing import import_file
from mmrl.media import Clip
from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample, Score

moving = import_file(Path(__file__).resolve().parents[2] / "datasets" / "moving" / "moving.py")
FILMS = list(moving.all_films())
ASKED = "a red square moves left"


def film(way: str = "left", colour: str = "red", shape: str = "square", seed: int = 0, frames: int = 5) -> list:
    return moving.draw(colour, shape, way, np.random.default_rng(seed), frames=frames)


def scored(artifacts: list, text: str = ASKED, name: str = "motion.follows", **options) -> list[Score]:
    prompt = Prompt("p", text)
    group = Group(prompt, 0, [Sample(prompt, i, artifact) for i, artifact in enumerate(artifacts)])
    score_groups([group], [load_reward(name, options)])
    return [next(iter(sample.scores.values())) for sample in group.samples]


def follows(frames: list, text: str = ASKED) -> float:
    (score,) = scored([Clip(tuple(frames))], text)
    assert score.ok, score.reason
    return score.value


@every("record", FILMS, ids=lambda record: record["id"])
def test_every_film_that_is_drawn_follows_its_caption_and_no_other_way(record):
    frames = film(record["way"], record["colour"], record["shape"], FILMS.index(record))
    values = {way: follows(frames, moving.caption(record["colour"], record["shape"], way)) for way in moving.WAYS}
    assert values.pop(record["way"]) == 1
    assert set(values.values()) == {0.25}  # it is there


BLANK = Image.new("RGB", (32, 32), (246, 245, 240))
FIRST, *REST = film()
# Frames of a film of five, and what they earn: a quarter of the share of frames, and three of that of steps.
HACKS = {
    "at rest": ([FIRST] * 5, 0.25),
    "nothing": ([BLANK] * 5, 0.0),
    "there for one frame": ([FIRST, *[BLANK] * 4], 0.05),
    "flicker": ([FIRST, BLANK, REST[1], BLANK, REST[3]], 0.15),
    "gone at the end": ([FIRST, *REST[:3], BLANK], 0.2 + 0.75 * 3 / 4),
    "there and back": ([FIRST, REST[0], FIRST, REST[0], FIRST], 0.25 + 0.75 * 2 / 4),
    "another colour": (film(colour="blue"), 0.0),
    "colours that change": ([FIRST, *film(colour="blue")[1:]], 0.05),
    "another shape": (film(shape="circle"), 0.75),
    "an end to end leap": ([film(frames=5, seed=3)[0]] * 4 + [film(frames=5, seed=3)[4]], 0.25),
}


@every("name", HACKS)
def test_what_looks_like_motion_earns_what_of_it_is_true(name):
    frames, value = HACKS[name]
    assert follows(frames) == pytest.approx(value)


def test_growth_two_objects_and_a_background_that_changes_are_no_motion():
    large = [frame.resize((48, 48)).crop((8, 8, 40, 40)) for frame in film(seed=1)]  # 2.25 times the area
    grown = [*film(seed=1)[:2], *large[2:]]
    both = [Image.fromarray(np.minimum(np.asarray(a), np.asarray(b))) for a, b in zip(film(), film("right", seed=5))]
    dark = [Image.fromarray(np.asarray(frame) // (1 + number % 2)) for number, frame in enumerate(film())]
    assert follows(grown) < 0.7
    assert follows(both) < 0.5
    assert follows(dark) == pytest.approx(0.15)


def test_other_captions_do_not_apply_and_pictures_are_no_films():
    (other,) = scored([Clip((FIRST, FIRST))], "two red squares")
    (picture,) = scored([FIRST])
    assert other.status == "na" and picture.status == "invalid" and "no film" in picture.reason


def test_strict_is_all_or_nothing():
    found = scored([Clip(tuple(film())), Clip((FIRST, *REST[:3], BLANK))], name="motion.strict")
    assert [score.value for score in found] == [1, 0]


# ---- frames.*: rewards of pictures --------------------------------------------------------------------------------

REWARDS = """
from mmrl.rewarding import group_reward
from mmrl.types import Score

def grey(samples):
    return [float(sample.artifact.getpixel((0, 0))) for sample in samples]

def picky(samples):
    found = [float(sample.artifact.getpixel((0, 0))) for sample in samples]
    return [None if value == 1 else float("nan") if value == 2 else value for value in found]

@group_reward
def best(group):
    values = [sample.artifact.getpixel((0, 0)) for sample in group.samples]
    return [float(value == max(values)) for value in values]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "grey.py"
    path.write_text(REWARDS)
    return path


def greys(*values: int) -> Clip:
    return Clip(tuple(Image.new("L", (4, 4), value) for value in values))


@pytest.mark.parametrize(
    ("reduction", "options", "value"),
    [
        ("mean", {}, 12),
        ("least", {}, 3),
        ("first", {}, 9),
        ("last", {}, 30),
        ("mean", {"count": 2}, 19.5),
        ("mean", {"count": 3}, 14),
    ],
)
def test_the_frames_scores_become_one(file, reduction, options, value):
    (score,) = scored([greys(9, 12, 3, 6, 30)], "x", f"frames.{reduction}", reward=f"{file}:grey", **options)
    assert score.value == value


def test_a_reward_of_groups_compares_the_same_frame_of_all_samples(file):
    found = scored([greys(9, 1), greys(3, 5), greys(2, 8)], "x", "frames.mean", reward=f"{file}:best")
    assert [score.value for score in found] == [0.5, 0.0, 0.5]


def test_a_frame_that_fails_fails_the_film_and_one_that_does_not_apply_is_left_out(file):
    films = [greys(9, 2), greys(9, 1), greys(1, 1), Image.new("L", (4, 4))]
    bad, part, none, picture = scored(films, "x", "frames.mean", reward=f"{file}:picky")
    assert bad.status == "invalid" and "frame 1: " in bad.reason
    assert part.value == 9 and none.status == "na"
    assert picture.status == "invalid" and "no film" in picture.reason


@pytest.mark.parametrize("name", ["jpeg.compressible", "composition.follows"])
def test_a_reward_of_pictures_refuses_a_film_and_says_what_scores_it(name):
    (score,) = scored([Clip((FIRST, FIRST))], "a red square", name)
    assert score.status == "invalid" and "frames.mean" in score.reason
    (score,) = scored([Clip((FIRST, FIRST))], "a red square", "frames.mean", reward=name)
    assert score.ok


def test_a_reward_that_reads_latents_scores_no_frames(tmp_path):
    path = tmp_path / "inside.py"
    path.write_text("def flat(samples):\n    return [0.0 for _ in samples]\n\n\nflat.reads = 'latents'\n")
    with pytest.raises(RewardError, match=r"inside\.flat reads latents, and frames have none"):
        load_reward("frames.least", {"reward": f"{path}:flat"})


def test_one_frame_is_not_a_count(file):
    with pytest.raises(Exception, match="count=1 must be 2 or more"):
        load_reward("frames.mean", {"reward": f"{file}:grey", "count": 1})
