"""Scores that no picture should be drawn for alone: what effects_image.py sets its systems against."""

from __future__ import annotations

LOUD, RARE = 10.0, 0.1  # of a reward that drowns out those below 1, and how often it is given
PULL = 0.5  # weight of colour in `liked`: a whole picture of colour is worth half of all claims
SWAY = (
    4.0  # in `swayed`: two pictures of a caption differ by 0.1 of it, and drawing more is worth as much as being right
)


def liked(samples: list) -> list[float | None]:
    """A flawed score: the share of the caption's claims that hold, and something for how much colour there is.

    The colour of two pictures of a caption differs by a few hundredths, less than any claim. It is what is left where
    two pictures keep the same claims, and it has no end: a picture full of colour earns PULL.
    """
    from mmrl.rewarding import load_reward

    claims = load_reward("composition.follows").call(samples)
    return [None if claim.value is None else claim.value + PULL * more for claim, more in zip(claims, _colour(samples))]


def swayed(samples: list) -> list[float | None]:
    """A flawed score: 1 where all claims of the caption hold, and SWAY times how much colour there is.

    A group of which all are right, or all wrong, has differences in colour alone. They are far below 1, but the std of
    a group makes as much of them.
    """
    from mmrl.rewarding import load_reward

    right = load_reward("composition.strict").call(samples)
    return [None if one.value is None else one.value + SWAY * more for one, more in zip(right, _colour(samples))]


def loud(samples: list) -> list[float]:
    """A reward on another scale than those below 1, of which nothing can be learnt: LOUD for every tenth picture.

    Which these are is a hash of their pixels. Its std over its mean is 3 whatever the policy draws, more than that of a
    share of claims: where one of the two is tamed, it is this one.
    """
    import zlib

    return [LOUD * (zlib.crc32(s.artifact.tobytes()) < RARE * 2**32) for s in samples]


def _colour(samples: list) -> list[float]:
    """The mean saturation of each picture, in [0, 1]."""
    import numpy as np

    return [float(np.asarray(s.artifact.convert("HSV"), dtype=np.float64)[..., 1].mean()) / 255 for s in samples]
