"""Subjects of reference pictures and objects found in another one: who is who, what is missing, twice or mixed.

Pure functions of similarities; `identity.py` finds objects and makes their features. Source: the Multi-ID Alignment
Reward of MultiCrafter (Wu et al. 2025, arXiv 2509.21953) is the assignment with the largest sum of cosines in which
every subject and every object has one partner at most. Its code is not public; the division by the number of subjects
and the three penalties are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Rules:
    """What is taken off, see `matched`. floor: the cosine of things that have nothing in common, counted as 0. same:
    the similarity from which on an object is somebody, rather than a thing beside. mixing: how much of another
    subject's excess an object loses; doubles, strangers: what an object too many adds to the number of subjects."""

    floor: float = 0.0
    same: float = 0.5
    mixing: float = 1.0
    doubles: float = 1.0
    strangers: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.floor < 1 or not 0 < self.same <= 1:
            raise ValueError(f"floor={self.floor} is -1 to below 1, same={self.same} above 0 to 1")
        for name in ("mixing", "doubles", "strangers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")


@dataclass(frozen=True)
class Subject:
    """What became of a subject. partner: the object that it is, None: missing. similarity: with it; mixed: how much
    more the partner is like another subject than this one is itself; credit: what counts."""

    partner: int | None = None
    similarity: float = 0.0
    mixed: float = 0.0
    credit: float = 0.0


@dataclass(frozen=True)
class Matching:
    """score: in [0, 1]. doubles: objects that are a subject again; strangers: those that are none."""

    score: float
    subjects: tuple[Subject, ...]
    doubles: tuple[int, ...] = ()
    strangers: tuple[int, ...] = ()


def matched(
    references: np.ndarray, objects: np.ndarray, rules: Rules, allowed: Sequence[Sequence[bool]] | None = None
) -> Matching:
    """Who is who: each subject one object at most, and each object one subject, with the largest sum of credits.

    references: [N, D] features of the subjects, objects: [M, D] of what was found, both of unit length. allowed:
    [N][M], which pairs may be one at all, by their kinds; all by default. An object is no double of a subject that it
    may not be.
    With s the cosine less `floor`, scaled to [0, 1]: the credit of subject i in object j is s_ij - mixing * max over
    k of (s_kj - s_ki, at least 0), at least 0: of a face that is halfway between two subjects it takes off what that
    has more of the other one than the subject itself has. A subject without an object is missing, with a credit of 0.
    score = sum of credits / (N + doubles * objects again + strangers * objects that are nobody). With all three weights
    0 that is the published assignment, as a mean.
    """
    count, found = len(references), len(objects)
    alike = _scaled(references @ objects.T, rules.floor) if found else np.zeros((count, 0))
    among = _scaled(references @ references.T, rules.floor)
    # [i, j]: of all k the largest s_kj - s_ki; of i itself it is s_ij - 1, below 0.
    excess = (alike[None, :, :] - among[:, :, None]).max(1).clip(min=0.0) if found else alike
    credits = (alike - rules.mixing * excess).clip(min=0.0)
    if allowed is not None:
        credits = credits * np.asarray(allowed, dtype=float).reshape(count, found)
    pairs = {
        int(i): int(j) for i, j in zip(*linear_sum_assignment(credits, maximize=True), strict=True) if credits[i, j] > 0
    }
    subjects = tuple(
        Subject(j, float(alike[i, j]), float(excess[i, j]), float(credits[i, j])) if j is not None else Subject()
        for i, j in ((i, pairs.get(i)) for i in range(count))
    )
    of_kind = alike if allowed is None else np.where(np.asarray(allowed, bool).reshape(count, found), alike, 0.0)
    doubles, strangers = [], []
    for j in sorted(set(range(found)) - set(pairs.values())):
        nearest = int(of_kind[:, j].argmax())
        if of_kind[nearest, j] < rules.same:
            strangers.append(j)
        elif nearest in pairs:
            doubles.append(j)
        # Else it is what should have been this subject, which is missing.
    of = count + rules.doubles * len(doubles) + rules.strangers * len(strangers)
    return Matching(sum(one.credit for one in subjects) / of, subjects, tuple(doubles), tuple(strangers))


def _scaled(cosines: np.ndarray, floor: float) -> np.ndarray:
    scaled: np.ndarray = ((cosines - floor) / (1.0 - floor)).clip(0.0, 1.0)
    return scaled
