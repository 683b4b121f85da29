"""How far a few-step student is from its teacher, the tiny model that ships: a measure that no reward can be hacked by.

What is drawn for a caption is compared with what the teacher draws for it, by the energy distance of the two
distributions (Szekely & Rizzo 2013). It is 0 where they are the same and above elsewhere, so that nothing but the
teacher's own distribution is good: pictures that the teacher would not draw however a reward likes them, one picture
drawn again and again, and blurred ones are all away from it. It looks at colours in squares, and knows no caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrl.rewarding import group_reward
from mmrl.types import Group, Prompt

TEACHER = "share://assets/image-tiny"
STEPS, DRAWN = 20, 8  # of the teacher; pictures of a caption
SIDE = 16  # squares
Floats = NDArray[np.float64]


@group_reward
def astray(group: Group) -> list[float | None]:
    """Each sample's part of the distance, of which the mean over a caption is unbiased: twice its mean distance to the
    teacher's, less that to its fellows, less that of the teacher's among themselves. None for a single sample."""
    mine, theirs = features([sample.artifact for sample in group.samples]), drawn(group.prompt.id, group.prompt.text)
    n, m = len(mine), len(theirs)
    if n < 2:
        return [None] * n
    own = distances(theirs, theirs).sum() / (m * (m - 1))
    apart = 2 * distances(mine, theirs).mean(1) - distances(mine, mine).sum(1) / (n - 1) - own
    return [float(value) for value in apart]


@lru_cache(maxsize=4096)
def drawn(id: str, text: str) -> Floats:
    """[DRAWN, numbers] of what the teacher draws for a caption."""
    [group] = teacher().evaluate([Prompt(id, text)], DRAWN, seed=99)
    return features([sample.artifact for sample in group.samples])


@lru_cache(maxsize=1)
def teacher() -> Any:
    from mmrl.modalities.image.adapter import ImageAdapter
    from mmrl.modalities.image.config import ModelConfig

    section = {"path": TEACHER, "max_sequence_length": 12, "evaluation": {"steps": STEPS}}
    return ImageAdapter(ModelConfig.model_validate(section))


def features(pictures: Sequence[Any]) -> Floats:
    """[n, numbers] from 0 to 1: mean colours of the squares of pictures."""
    from PIL import Image

    small = [picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX) for picture in pictures]
    return np.stack([np.asarray(one, dtype=np.float64).ravel() / 255 for one in small])


def distances(one: Floats, others: Floats) -> Floats:
    """[n, m], Euclidean."""
    found: Floats = np.sqrt(((one[:, None] - others[None]) ** 2).sum(-1))
    return found
