"""Which denoising steps are stochastic and which are trained: pure functions of (options, seed, step)."""

from __future__ import annotations

import inspect
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmrl.near import near


@dataclass(frozen=True)
class StepPlan:
    """Steps are numbered 0 (pure noise) to n_steps - 1 (the one that ends at t = 0).

    stochastic: steps sampled by the SDE kernel, increasing; all others are ODE steps.
    trained: those of them whose latents are stored and that enter the loss, increasing.
    The last step is never trained unless `allow_last`: its Gaussian is too sharp, or has std 0.
    boundaries: the latents before all steps are stored, though none is trained.
    ValueError when an invariant does not hold.
    """

    n_steps: int
    stochastic: tuple[int, ...]
    trained: tuple[int, ...]
    allow_last: bool = False
    boundaries: bool = False

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"StepPlan: n_steps is {self.n_steps}, a sampler takes at least 1 step")
        for name, steps in (("stochastic", self.stochastic), ("trained", self.trained)):
            outside = [i for i in steps if not 0 <= i < self.n_steps]
            if outside:
                raise ValueError(f"StepPlan: {name} steps {outside} are outside 0..{self.n_steps - 1}")
            if any(b <= a for a, b in itertools.pairwise(steps)):
                raise ValueError(f"StepPlan: {name} steps {list(steps)} must increase, without repeats")
        deterministic = sorted(set(self.trained) - set(self.stochastic))
        if deterministic:
            raise ValueError(f"StepPlan: trained steps {deterministic} are not stochastic; an ODE step has no log-prob")
        if self.n_steps - 1 in self.trained and not self.allow_last:
            raise ValueError(
                f"StepPlan: step {self.n_steps - 1} is the last one and not trained by default; leave it "
                "out, or set allow_last=True with a kernel whose std is positive at t_next = 0"
            )


# ---- plans ----------------------------------------------------------------------------------------------


def full(n_steps: int, step: int, rng: random.Random, *, fraction: float = 0.99, allow_last: bool = False) -> StepPlan:
    """Every step is stochastic; the first int(n_steps fraction) are trained (Flow-GRPO: 9 of 10)."""
    trained = range(_portion("full", n_steps, fraction))
    return StepPlan(n_steps, tuple(range(n_steps)), tuple(trained), allow_last)


def first_fraction(
    n_steps: int, step: int, rng: random.Random, *, fraction: float = 0.99, allow_last: bool = False
) -> StepPlan:
    """The first int(n_steps fraction) steps are stochastic and trained; the rest are ODE (clean pictures)."""
    steps = tuple(range(_portion("first_fraction", n_steps, fraction)))
    return StepPlan(n_steps, steps, steps, allow_last)


def random_fraction(
    n_steps: int, step: int, rng: random.Random, *, fraction: float = 0.6, allow_last: bool = False
) -> StepPlan:
    """Every step is stochastic; int((n_steps - 1) fraction) random ones are trained, the last one excepted.

    DanceGRPO: 9 of 16. There each sample has its own permutation; here one is shared by the update, so that
    all samples of a group are compared at the same steps.
    """
    candidates = range(_end(n_steps, allow_last))
    trained = rng.sample(candidates, _portion("random_fraction", len(candidates), fraction))
    return StepPlan(n_steps, tuple(range(n_steps)), tuple(sorted(trained)), allow_last)


def random_window(
    n_steps: int,
    step: int,
    rng: random.Random,
    *,
    size: int = 2,
    lo: int = 0,
    hi: int | None = None,
    allow_last: bool = False,
) -> StepPlan:
    """`size` consecutive steps in [lo, hi) are stochastic and trained, the start uniform; the rest are ODE.

    hi defaults to the last trainable step's end. Source: Flow-GRPO-Fast.
    """
    hi = _end(n_steps, allow_last) if hi is None else hi
    if not (size >= 1 and lo >= 0 and lo + size <= hi <= n_steps):
        raise ValueError(f"plan random_window: no window of size={size} fits in [lo={lo}, hi={hi}) of {n_steps} steps")
    start = rng.randint(lo, hi - size)
    window = tuple(range(start, start + size))
    return StepPlan(n_steps, window, window, allow_last)


def explicit(
    n_steps: int,
    step: int,
    rng: random.Random,
    *,
    steps: Sequence[int],
    choose: int | None = None,
    allow_last: bool = False,
) -> StepPlan:
    """The listed steps, or `choose` random ones of them, are stochastic and trained; the rest are ODE.

    Source: PaCo-GRPO ([1] for FLUX; [1, 2, 3, 4] for editing).
    """
    if not steps or len(set(steps)) != len(steps):
        raise ValueError(f"plan explicit: steps={list(steps)} must name at least one step, each once")
    if choose is not None and not 1 <= choose <= len(steps):
        raise ValueError(f"plan explicit: cannot choose={choose} of {len(steps)} steps")
    chosen = tuple(sorted(steps if choose is None else rng.sample(list(steps), choose)))
    return StepPlan(n_steps, chosen, chosen, allow_last)


def random_steps(n_steps: int, step: int, rng: random.Random, *, count: int, allow_last: bool = False) -> StepPlan:
    """Every step is stochastic; `count` random ones are trained, the last one excepted. Source: UniRL."""
    candidates = range(_end(n_steps, allow_last))
    if not 1 <= count <= len(candidates):
        raise ValueError(f"plan random_steps: cannot train count={count} of the {len(candidates)} trainable steps")
    return StepPlan(n_steps, tuple(range(n_steps)), tuple(sorted(rng.sample(candidates, count))), allow_last)


def sliding(
    n_steps: int,
    step: int,
    rng: random.Random,
    *,
    size: int = 4,
    stride: int = 1,
    every: int = 25,
    allow_last: bool = False,
) -> StepPlan:
    """A window that starts at 0, moves by `stride` after `every` updates, and returns to 0 at the end.

    The window is stochastic and trained, the rest ODE. Source: MixGRPO (25 steps, its defaults). There the
    window may shrink against the end; here it returns before, so that every update trains `size` steps.
    """
    return _window("sliding", n_steps, step, size, stride, every, lambda start: every, allow_last)


def sliding_linear(
    n_steps: int,
    step: int,
    rng: random.Random,
    *,
    size: int = 4,
    stride: int = 1,
    every: int = 25,
    least: int | None = None,
    allow_last: bool = False,
) -> StepPlan:
    """`sliding`, whose window stays for fewer updates the later it is: from `every` at step 0 in a line to `least`.

    `least` is of the last trainable step; None takes a quarter of `every`. Source: MixGRPO's decay.
    """
    end, lowest = _end(n_steps, allow_last), max(1, every // 4) if least is None else least
    if not 1 <= lowest <= every:
        raise ValueError(f"plan sliding_linear: least={lowest} must be from 1 to every={every}")

    def updates(start: int) -> int:
        return max(lowest, int(every * (1 - start / end) + lowest * start / end))

    return _window("sliding_linear", n_steps, step, size, stride, every, updates, allow_last)


def sliding_exponential(
    n_steps: int,
    step: int,
    rng: random.Random,
    *,
    size: int = 4,
    stride: int = 1,
    every: int = 25,
    after: int = 13,
    rate: float = 0.1,
    allow_last: bool = False,
) -> StepPlan:
    """`sliding`, whose window stays for every exp(-rate (start - after)) updates, rounded up, once it is past `after`.

    Source: MixGRPO's exponential decay.
    """
    if after < 0 or rate <= 0:
        raise ValueError(f"plan sliding_exponential: after={after} must be 0 or more and rate={rate} above 0")

    def updates(start: int) -> int:
        return math.ceil(every * math.exp(-rate * max(0, start - after)))

    return _window("sliding_exponential", n_steps, step, size, stride, every, updates, allow_last)


def untrained(
    n_steps: int, step: int, rng: random.Random, *, stochastic: int = 0, boundaries: bool = False
) -> StepPlan:
    """No step is trained: what is stored is the picture's latent, for stages on the forward process.

    The first `stochastic` steps are drawn with noise, the rest are ODE. boundaries: the latents on the way are stored,
    too, from which a distill stage goes on.
    """
    if not 0 <= stochastic <= n_steps:
        raise ValueError(f"plan untrained: stochastic={stochastic} is outside 0..{n_steps}")
    return StepPlan(n_steps, tuple(range(stochastic)), (), boundaries=boundaries)


PLANS: dict[str, Callable[..., StepPlan]] = {
    "full": full,
    "first_fraction": first_fraction,
    "random_fraction": random_fraction,
    "random_steps": random_steps,
    "random_window": random_window,
    "explicit": explicit,
    "sliding": sliding,
    "sliding_linear": sliding_linear,
    "sliding_exponential": sliding_exponential,
    "untrained": untrained,
}


def make_plan(name: str, n_steps: int, step: int, seed: int, **options: Any) -> StepPlan:
    """The plan of update `step`: the same on every rank, and random plans differ from step to step.

    ValueError for an unknown name or option (with the nearest known one), a missing option, or a plan that
    does not fit n_steps.
    """
    if name not in PLANS:
        raise ValueError(f"unknown plan {name!r}: {near(name, PLANS)}")
    parameters = inspect.signature(PLANS[name]).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option in options:
        if option not in known:
            raise ValueError(f"plan {name} has no option {option!r}: {near(option, known)}")
    missing = [option for option in known if known[option] is inspect.Parameter.empty and option not in options]
    if missing:
        raise ValueError(f"plan {name} needs the option {missing[0]!r}")
    # Seeded by a string: unlike hash(), the same in every process; (1, 23) and (12, 3) differ.
    return PLANS[name](n_steps, step, random.Random(f"plan:{seed}:{step}"), **options)


# ---- checks ---------------------------------------------------------------------------------------------


def _end(n_steps: int, allow_last: bool) -> int:
    """One past the last step that may be trained."""
    return n_steps if allow_last else n_steps - 1


def _window(
    plan: str,
    n_steps: int,
    step: int,
    size: int,
    stride: int,
    every: int,
    updates: Callable[[int], int],
    allow_last: bool,
) -> StepPlan:
    """The window of update `step`, which stays for updates(start) of them; a function of the step alone."""
    positions = _end(n_steps, allow_last) - size + 1
    if size < 1 or stride < 1 or every < 1 or positions < 1:
        raise ValueError(
            f"plan {plan}: size={size}, stride={stride}, every={every} must be at least 1, and the window "
            f"must fit in the {_end(n_steps, allow_last)} trainable steps of {n_steps}"
        )
    starts = range(0, positions, stride)
    left = step % sum(updates(start) for start in starts)
    for start in starts:
        if left < updates(start):
            break
        left -= updates(start)
    window = tuple(range(start, start + size))
    return StepPlan(n_steps, window, window, allow_last)


def _portion(plan: str, count: int, fraction: float) -> int:
    if not 0 < fraction <= 1:
        raise ValueError(f"plan {plan}: fraction={fraction} is outside (0, 1]")
    # 0.29 * 100 is 28.999...: a product that is whole on paper must not lose a step.
    trained = math.floor(count * fraction + 1e-9)
    if trained == 0:
        raise ValueError(
            f"plan {plan}: fraction={fraction} of {count} steps trains none; raise the fraction or the steps "
            "(a single step is trained with fraction=1.0, allow_last=True)"
        )
    return trained
