"""Whether a judge is right as often as it is sure: the reliability curve, and its expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmrl.judging.judged import Judged, credit, right_ones

FEWEST_KINDS = 3  # different confidences below which there is no curve: a judge that says 1 or 0


@dataclass(frozen=True)
class Bin:
    """Showings of about one confidence. confidence, accuracy: their means."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Reliability:
    """bins: without empty ones. error: expected calibration error, mean |accuracy - confidence| over the showings."""

    bins: tuple[Bin, ...]
    error: float


def reliability(judged: Sequence[Judged], bins: int = 10) -> Reliability | None:
    """Of the showings with a verdict; None where a judge's shares say nothing of how sure it is.

    The confidence is the largest share: of a Scorer sigmoid(score - score), which is what a Bradley-Terry model claims.
    Bins are of equal width between 1 / (number of candidates) and 1 (Guo et al. 2017, arXiv 1706.04599).
    """
    found = [
        (max(shown.verdict.shares), credit(one.pair, shown.verdict))
        for one in judged
        if right_ones(one.pair)
        for shown in one.shown
        if shown.verdict.shares is not None
    ]
    if len({round(confidence, 9) for confidence, _ in found}) < FEWEST_KINDS:
        return None
    floor = min(1 / len(one.pair.candidates) for one in judged)
    parts: dict[int, list[tuple[float, float]]] = {}
    for confidence, right in found:
        place = int((confidence - floor) / (1 - floor) * bins)
        parts.setdefault(min(max(place, 0), bins - 1), []).append((confidence, right))
    made = [
        Bin(sum(c for c, _ in part) / len(part), sum(r for _, r in part) / len(part), len(part))
        for _, part in sorted(parts.items())
    ]
    error = sum(b.count * abs(b.accuracy - b.confidence) for b in made) / len(found)
    return Reliability(tuple(made), error)
