"""One number of a sample's rewards, and who has one. A reward of weight 0 is a monitor: it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmrl.types import Group, Sample


def total(sample: Sample, weights: Mapping[str, float]) -> float | None:
    """Weighted sum of the rewards that apply; None where one of them is invalid, or none applies."""
    scores = [(weight, sample.scores[name]) for name, weight in weights.items() if weight]
    values = [weight * score.value for weight, score in scores if score.ok and score.value is not None]
    if not values or any(score.status == "invalid" for _, score in scores):
        return None
    return sum(values)


def totals(group: Group, weights: Mapping[str, float]) -> list[float]:
    """`total` of every sample that has one."""
    return [value for sample in group.samples if (value := total(sample, weights)) is not None]


def known_share(groups: Sequence[Group], weights: Mapping[str, float]) -> tuple[int, int]:
    """(samples that have a reward, samples)."""
    return sum(len(totals(g, weights)) for g in groups), sum(len(g.samples) for g in groups)


def weighted_invalid(groups: Sequence[Group], weights: Mapping[str, float]) -> int:
    """Samples of which a reward that is no monitor is invalid."""
    return sum(
        any(weight and s.scores[name].status == "invalid" for name, weight in weights.items())
        for g in groups
        for s in g.samples
    )
