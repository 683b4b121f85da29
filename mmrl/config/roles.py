"""Sections of a stage's roles: named weights beside the policy's, and what moves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from mmrl.config.optim import OptimConfig
from mmrl.strict import Strict, When


class FollowConfig(Strict):
    """How weights follow others: w <- d w + (1 - d) theirs, where d may rise with the number of times."""

    decay: float = Field(0.0, ge=0, lt=1, description="d, the share that stays; 0 takes the others as they are.")
    rise: Literal["none", "linear", "average"] = Field(
        "none",
        description="How d comes to `decay`. none: at once. linear: d is `start` at first, and rises by `slope` with "
        "each time that they follow. average: (1 + n) / (10 + n) the n-th time, which forgets the beginning.",
    )
    start: float = Field(0.0, ge=0, lt=1, description="linear: d at first.")
    slope: float = Field(0.001, gt=0, description="linear: what d rises by.")
    flat: int = Field(0, ge=0, description="linear: times before d rises.")
    every: int = Field(1, ge=1, description="They follow behind so many updates of the others.")

    effects: ClassVar[Mapping[str, When]] = {
        "rise": When(lambda s, _: s.decay > 0, "`decay` above 0"),
        "start": When(lambda s, _: s.rise == "linear", "`rise: linear`"),
        "slope": When(lambda s, _: s.rise == "linear", "`rise: linear`"),
        "flat": When(lambda s, _: s.rise == "linear", "`rise: linear`"),
    }

    def kept(self, n: int) -> float:
        """d of the n-th time, from 1."""
        linear = self.start + self.slope * max(0, n - 1 - self.flat)
        return min(self.decay, {"none": 1.0, "linear": linear, "average": (1 + n) / (10 + n)}[self.rise])

    def kept_behind(self, updates: int) -> float:
        """d behind so many updates (from 1) of the others; 1 where it is not time to follow."""
        n, left = divmod(updates, self.every)
        return 1.0 if left else self.kept(n)

    def in_words(self, whom: str = "the policy") -> str:
        """On one line, for `mmrl plan`."""
        rising = {"none": "", "linear": f", from {self.start:g} by {self.slope:g}", "average": " after a warm-up"}
        every = f" every {self.every} updates" if self.every > 1 else ""
        return f"follows {whom}{every} with decay {self.decay:g}{rising[self.rise]}"


class RoleConfig(Strict):
    """A role of a stage: weights that begin as the policy does where the stage begins. What moves them: an optimizer of
    their own, following the policy, both, or nothing."""

    optim: OptimConfig | None = Field(None, description="The role's own optimizer; null: it is not trained.")
    every: int = Field(1, ge=1, description="It is trained in each so-many-th step of the stage, from the first on.")
    updates: int = Field(1, ge=1, description="Optimizer steps in a step in which it is trained.")
    follow: FollowConfig | None = Field(None, description="How it follows the policy; null: it does not.")

    effects: ClassVar[Mapping[str, When]] = {
        "every": When(lambda s, _: s.optim is not None, "the role's `optim`"),
        "updates": When(lambda s, _: s.optim is not None, "the role's `optim`"),
    }

    def updates_in(self, step: int) -> int:
        """Optimizer steps that it takes in a step of the stage, counted from 0."""
        return self.updates if self.optim is not None and step % self.every == 0 else 0

    def all_updates(self, steps: int) -> int:
        """Optimizer steps in so many steps of the stage."""
        return sum(self.updates_in(step) for step in range(steps))

    def in_words(self) -> str:
        """On one line, for `mmrl plan`."""
        step = "step" if self.every == 1 else f"{self.every} steps"
        often = f"{self.updates} update{'s' if self.updates > 1 else ''} every {step}"
        moved = [f"{often}: {self.optim.in_words()}"] if self.optim else []
        moved += [self.follow.in_words()] if self.follow else []
        return "; ".join(moved) or "stays what the policy is where the stage begins"
