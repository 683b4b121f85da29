"""Schedules: values as pure functions of the training step (from 0), so that a resumed run needs no state for them.

SCHEDULES holds those that give one number: (step, **options) -> float. `ead` gives a temperature for every position,
`stage_weights` the weights of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from mmrl.core.registry import Registry, at_least, between

SCHEDULES = Registry("schedule")


@SCHEDULES.add("constant")
def constant(step: int, *, value: float) -> float:
    """Always `value`."""
    return float(value)


@SCHEDULES.add("linear", steps=at_least(1))
def linear(step: int, *, start: float, end: float, steps: int) -> float:
    """From `start` at step 0 in a straight line to `end` at `steps`, and `end` from there on."""
    return start + (end - start) * _progress(step, steps)


@SCHEDULES.add("cosine", steps=at_least(1))
def cosine(step: int, *, start: float, end: float, steps: int) -> float:
    """From `start` at step 0 along half a cosine to `end` at `steps`, and `end` from there on."""
    return end + (start - end) * (1 + math.cos(math.pi * _progress(step, steps))) / 2


@SCHEDULES.add("chord_mu", warmup=at_least(0), decay=at_least(1), peak=between(0, 1), valley=between(0, 1))
def chord_mu(step: int, *, warmup: int = 0, decay: int = 1, peak: float = 0.1, valley: float = 0.1) -> float:
    """CHORD's share mu of the expert loss: linearly from 0 to `peak` in `warmup` steps, then along half a cosine to
    `valley` in `decay` steps.

    The released defaults, 0.1 for both, are a constant.
    """
    if step < warmup:
        return peak * step / warmup
    return cosine(step - warmup, start=peak, end=valley, steps=decay)


@SCHEDULES.add("turns", every=at_least(1))
def turns(step: int, *, rounds: Sequence[int], every: int = 100) -> int:
    """ScalingInter-RL: rounds[step // every], the last one from there on; the largest number of turns of an episode.

    Published: [6, 13, 20] for BabyAI, [10, 20, 30] for SciWorld and TextCraft, [5, 8, 10] for SearchQA, all every 100
    steps, and [8, 12, 15] every 80 for WebArena. Raises ValueError without rounds, or for rounds below 1.
    """
    if not rounds or min(rounds) < 1:
        raise ValueError(f"schedule 'turns': rounds={list(rounds)}: give at least one number, each 1 or more")
    return rounds[min(step // every, len(rounds) - 1)]


# The decay of exploratory annealed decoding, by form: (d0, its growth per step, factor on both).
EAD_FORMS = {"paper": (500.0, 5.0, 1.0), "released": (25.0, 5.0, 20.0)}


def ead(
    step: int,
    max_tokens: int,
    *,
    form: str = "paper",
    tau_max: float = 1.2,
    tau_min: float = 0.1,
    first: int = 10,
    start: float | None = None,
    growth: float | None = None,
    limit: float = 40000.0,
) -> tuple[float, ...]:
    """Exploratory annealed decoding: the temperature of each of `max_tokens` positions t = 0, 1 ...

    max(1 + tau_max - exp(t / d), tau_min), and 1 where t < first. The decay d grows with the training step:

    paper: d = min(start + growth * step, limit); start 500 is the release's 20 * 25.
    released: d = 20 * min(start + growth * step, limit), start 25: it grows 20 times as fast.

    The sampler is then no longer the policy at temperature 1: store its log-probs and correct for them. Raises
    ValueError for an unknown form, or temperatures that are not in order.
    """
    if form not in EAD_FORMS:
        raise ValueError(f"ead: form={form!r} is not known; use one of {', '.join(EAD_FORMS)}")
    if not 0 < tau_min <= tau_max:
        raise ValueError(f"ead: needs 0 < tau_min <= tau_max, got tau_min={tau_min:g} and tau_max={tau_max:g}")
    own_start, own_growth, factor = EAD_FORMS[form]
    d = min((own_start if start is None else start) + (own_growth if growth is None else growth) * step, limit) * factor
    if d <= 0:
        raise ValueError(f"ead: the decay is {d:g} at step {step}; start must be above 0, growth 0 or more")
    # From here on the exponential only goes on falling below tau_min, until it overflows.
    bottom = d * math.log(1 + tau_max - tau_min)
    annealed = (tau_min if t >= bottom else 1 + tau_max - math.exp(t / d) for t in range(max_tokens))
    return tuple(1.0 if t < first else tau for t, tau in enumerate(annealed))


def stage_weights(
    step: int, *, boundaries: Sequence[int], weights: Sequence[Mapping[str, float]]
) -> Mapping[str, float]:
    """The weights, by name, of the stage that `step` is in; stage i + 1 begins at step boundaries[i].

    `check_stages` says whether they fit.
    """
    return weights[sum(step >= boundary for boundary in boundaries)]


def check_stages(*, boundaries: Sequence[int], weights: Sequence[Mapping[str, float]]) -> None:
    """Raise ValueError where boundaries do not rise, or are not one fewer than the stages."""
    if len(weights) != len(boundaries) + 1 or any(b <= a for a, b in pairwise(boundaries)):
        raise ValueError(
            f"{len(weights)} stages need {len(weights) - 1} rising boundaries between them, got {list(boundaries)}"
        )


def _progress(step: int, steps: int) -> float:
    """Share of `steps` that is done, from 0 to 1."""
    return min(max(step, 0) / steps, 1.0)
