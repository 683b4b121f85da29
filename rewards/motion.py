"""Does the shape of a film move as the caption says? Seen in the pixels of each frame, no model.

Captions are those of the moving shapes ("a red square moves left"). Objects are found as in the composed scenes
(composition.py), in each frame by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import median

import numpy as np
from PIL import Image

from mmrl.media import Clip
from mmrl.types import Sample, Score

from .composition import COLOURS, SHAPES, Found, detect

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
STEP = (0.02, 0.3)  # share of the side that the centre goes from a frame to the next: less is rest, more is a leap
GROWN = 1.5  # times the area that is usual in the film: larger, or smaller by as much, is another object
LIT = 40.0  # RGB distance of a frame's background from the first one's beyond which it flickers
SHOWN = 0.25  # share of the score that is for being there, the rest is for going

_PROMPT = re.compile(rf"an? ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) moves ({'|'.join(WAYS)})\.?")


@dataclass(frozen=True)
class _Film:
    """What is in each frame: the only object of it, where that has the colour and a steady size; else None."""

    objects: list[Found | None]
    size: tuple[int, int]
    why: list[str]  # what is wrong with each frame, "" for nothing


def follows(samples: list[Sample]) -> list[Score]:
    """A quarter for the object that is there, three for its going the way that is told; in [0, 1].

    There: the share of frames whose only object has the colour and the shape. Going: the share of steps between
    neighbouring frames in which an object of the colour goes that way by 2 to 30 % of the side, and less to the side
    than along. A frame counts for neither where anything else is in it, where the object is larger or smaller than its
    median in the film by half, or where the background is another than in the first: flicker, leaps, swaps and growth
    earn nothing. `details` has what was found, and `strict`: whether all of it holds. A caption of another form is not
    applicable; a sample that is no film of two frames or more is invalid.
    """
    return [_judge(sample) for sample in samples]


def strict(samples: list[Sample]) -> list[Score]:
    """1 if every frame shows the object and every step goes the way that is told, else 0; see `follows`."""
    return [
        Score(float(score.details["strict"]), details=score.details) if score.ok else score
        for score in follows(samples)
    ]


def _judge(sample: Sample) -> Score:
    match = _PROMPT.fullmatch(" ".join(sample.prompt.text.lower().split()))
    if not match:
        return Score(None, f"prompt {sample.prompt.text!r:.60} does not say 'a red square moves left'", "na")
    clip = sample.artifact
    if not isinstance(clip, Clip) or len(clip) < 2:
        return Score.invalid(f"the sample is no film of two frames or more, but {type(clip).__name__}")
    colour, shape, way = match.groups()
    film = _seen(clip, colour)
    there = [found is not None and found.shape == shape for found in film.objects]
    steps = [_goes(a, b, way, film.size) for a, b in zip(film.objects, film.objects[1:])]
    shown, gone = sum(there) / len(there), sum(steps) / len(steps)
    details = {
        "shown": shown,
        "steps": gone,
        "frames": [_told(found, why) for found, why in zip(film.objects, film.why)],
        "strict": all(there) and all(steps),
    }
    return Score(SHOWN * shown + (1 - SHOWN) * gone, details=details)


def _seen(clip: Clip, colour: str) -> _Film:
    lights = [_background(frame) for frame in clip.frames]
    found: list[Found | None] = []
    why = []
    for frame, light in zip(clip.frames, lights):
        objects = detect(frame)
        if float(np.linalg.norm(light - lights[0])) > LIT:
            problem = "another background"
        elif len(objects) != 1:
            problem = f"{len(objects)} objects"
        elif objects[0].colour != colour:
            problem = f"a {objects[0].colour} {objects[0].shape}"
        else:
            problem = ""
        found.append(None if problem else objects[0])
        why.append(problem)
    usual = median([one.area for one in found if one is not None] or [0.0])
    for place, one in enumerate(found):
        if one is not None and not usual / GROWN <= one.area <= usual * GROWN:
            found[place], why[place] = None, f"{one.area / usual:.1f} times its usual size"
    return _Film(found, clip.size, why)


def _goes(before: Found | None, after: Found | None, way: str, size: tuple[int, int]) -> bool:
    if before is None or after is None:
        return False
    x, y = WAYS[way]
    right, down = (after.x - before.x) / size[0], (after.y - before.y) / size[1]
    along, aside = right * x + down * y, abs(right * y) + abs(down * x)
    return STEP[0] <= along <= STEP[1] and aside <= along


def _background(frame: Image.Image) -> np.ndarray:
    pixels = np.asarray(frame.convert("RGB"), dtype=np.float32)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    return np.median(edge, axis=0)


def _told(found: Found | None, why: str) -> str:
    return why or (f"{found.colour} {found.shape} at ({found.x:.0f}, {found.y:.0f})" if found else "nothing")
