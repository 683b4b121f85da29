"""How difficult prompts are: numbers of their records, which may follow the rollouts, and the levels that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.training.rollouts.buckets import levels
from mmrl.types import Prompt


class CurriculumError(ValueError):
    """A curriculum that cannot be made, cannot go on, or does not fit its saved state; says what to do."""


class Levels:
    """The level of each prompt, the lowest first.

    names: the prompts' ids. values: a number for each. first, buckets, reestimate: see Curriculum. Numbers that follow
    the rollouts move prompts between levels when `settle` is called, and not before.

    Raises CurriculumError for numbers that are to follow rates and are none.
    """

    def __init__(
        self, names: Sequence[str], values: Sequence[float], first: str, buckets: int | None, reestimate: float | None
    ) -> None:
        self.values = dict(zip(names, values))
        self.first, self.buckets, self.reestimate = first, buckets, reestimate
        if reestimate is not None:
            _refuse_no_rates(self.values)
        self.estimates: dict[str, float] = {}  # numbers that rollouts have changed
        self.used: dict[str, float] = {}  # those of them that the levels are drawn from
        self.rank = self._ranks()
        self.top = max(self.rank) if buckets is None else buckets - 1

    def follow(self, name: str, pass_rate: float) -> None:
        """Move the number of a prompt towards how it was answered."""
        if self.reestimate is not None:
            before = self.estimates.get(name, self.values[name])
            self.estimates[name] = (1 - self.reestimate) * before + self.reestimate * pass_rate

    def settle(self) -> None:
        """Draw the levels from the numbers as they are now."""
        if self.used != self.estimates:
            self.used = dict(self.estimates)
            self.rank = self._ranks()

    def state(self) -> dict[str, Any]:
        """What changes, as JSON."""
        return {"estimates": dict(self.estimates), "used": dict(self.used)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.estimates, self.used = dict(state["estimates"]), dict(state["used"])
        self.rank = self._ranks()

    def _ranks(self) -> list[int]:
        sign = -1 if self.first == "high" else 1
        return levels([sign * self.used.get(name, value) for name, value in self.values.items()], self.buckets)


def difficulties(prompts: Sequence[Prompt], column: str) -> list[float]:
    """The number in `column` of every prompt's record. Raises CurriculumError, naming the prompt, without one."""
    for prompt in prompts:
        value = prompt.record.get(column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CurriculumError(
                f"curriculum: prompt {prompt.id!r} has {column}={value!r}, which is no number; the order is by this "
                "column, so every record needs it"
            )
    return [float(prompt.record[column]) for prompt in prompts]


def _refuse_no_rates(values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise CurriculumError(
                f"curriculum: reestimate needs pass rates, shares from 0 to 1, and prompt {name!r} has {value:g}; name "
                "another column, or leave it out"
            )
