"""How difficult prompts are: numbers of their records, which may follow the rollouts, and the levels that they make."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmrl.training.rollouts.buckets import cuts, levels_of
from mmrl.types import Prompt


class CurriculumError(ValueError):
    """A curriculum that cannot be made, cannot go on, or does not fit its saved state; says what to do."""


class Levels:
    """The level of each prompt, the lowest first, and how many of each are left.

    Prompts are told by their numbers, from 0. names: their ids, for messages. values: how difficult each is. first,
    buckets, reestimate: see Curriculum. Values that follow the rollouts move prompts between levels when `settle` is
    called, and not before; where levels are the different values of the start, the last one takes what new values would
    put above it. A step looks at, and moves, the prompts that it is about: the others cost a copy of
    sorted numbers at most.

    alive: [n] bool. left: how many they are.

    Raises CurriculumError for numbers that are to follow rates and are none.
    """

    alive: np.ndarray
    _cuts: np.ndarray  # where levels part
    _all: np.ndarray  # the drawn numbers of all, rising
    _unsettled: set[int]  # prompts whose levels are drawn from another value than they have now

    def __init__(
        self,
        names: Sequence[str],
        values: Sequence[float] | np.ndarray,
        first: str,
        buckets: int | None,
        reestimate: float | None,
    ) -> None:
        self._sign, self.buckets, self.reestimate = (-1.0 if first == "high" else 1.0), buckets, reestimate
        self._values = np.array(values, dtype=np.float64)  # as they came
        if reestimate is not None:
            _refuse_no_rates(names, self._values)
        self.top = len(self._values) if buckets is None else buckets - 1  # as many as there may be
        self.load({}, {}, ())
        self.top = int(self._rank(self._all[-1:])[0]) if buckets is None else self.top
        self._cuts = self._cuts[: self.top]

    def of(self, prompts: np.ndarray) -> np.ndarray:
        """The levels of prompts."""
        return self._rank(self._drawn[prompts])

    def follow(self, prompt: int, pass_rate: float) -> None:
        """Move the value of a prompt towards how it was answered."""
        if self.reestimate is not None:
            self._now[prompt] = (1 - self.reestimate) * self._now[prompt] + self.reestimate * pass_rate
            self._followed[prompt] = True
            self._unsettled.add(prompt)

    def retire(self, prompt: int) -> None:
        """A prompt leaves the living."""
        if self.alive[prompt]:
            self.alive[prompt] = False
            self.left -= 1
            self._gone.append(prompt)

    def settle(self) -> None:
        """Draw the levels from the values as they are now."""
        if not self._unsettled:
            return
        living = self._living  # without those who left with their old values
        moved = np.array(sorted(self._unsettled))
        before, now = self._drawn[moved], self._sign * self._now[moved]
        self._drawn[moved] = now
        self._all = _changed(self._all, before, now)
        stays = self.alive[moved]
        self._sorted = _changed(living, before[stays], now[stays])
        self._cuts = cuts(self._all, self.buckets)[: self.top]
        self._used[moved] = True
        self._unsettled = set()

    # ---------------------------------------------------------------- who is where

    def counts(self) -> np.ndarray:
        """[top + 1] how many of the living are on each level."""
        ends = np.searchsorted(self._living, self._cuts, side="right")
        ends = np.append(ends, [len(self._sorted)] * (self.top + 1 - len(ends)))
        return np.diff(ends, prepend=0)

    def any_between(self, lowest: int, highest: int) -> bool:
        """Whether any of the living is on one of these levels, both included."""
        below = self._up_to(self._living, lowest - 1)
        return self._up_to(self._living, highest) > below

    def ever_had(self, level: int) -> bool:
        """Whether a prompt is on the level, one that left included."""
        return self._up_to(self._all, level) > self._up_to(self._all, level - 1)

    def highest(self, below: int | None = None) -> int | None:
        """The highest level of the living, or of those below a level; None where there is none."""
        count = len(self._living) if below is None else self._up_to(self._living, below - 1)
        return int(self._rank(self._living[count - 1 : count])[0]) if count else None

    # ---------------------------------------------------------------- to go on from elsewhere

    @property
    def estimates(self) -> dict[int, float]:
        """Values that rollouts have changed."""
        some = np.flatnonzero(self._followed)
        return dict(zip(some.tolist(), self._now[some].tolist()))

    @property
    def used(self) -> dict[int, float]:
        """Those of them that the levels are drawn from."""
        some = np.flatnonzero(self._used)
        return dict(zip(some.tolist(), (self._sign * self._drawn[some]).tolist()))

    def load(self, estimates: Mapping[int, float], used: Mapping[int, float], retired: Sequence[int]) -> None:
        """Go on with these. retired: prompts that are no longer among the living."""
        self._now, self._followed = _written(self._values, estimates)
        drawn, self._used = _written(self._values, used)
        self._drawn = self._sign * drawn
        self._unsettled = {prompt for prompt, value in estimates.items() if used.get(prompt) != value}
        self.alive, _ = _written(np.ones(len(drawn), dtype=bool), dict.fromkeys(retired, False))
        self.left = int(self.alive.sum())
        self._gone: list[int] = []  # that left since the living were sorted
        self._all, self._sorted = np.sort(self._drawn), np.sort(self._drawn[self.alive])
        self._cuts = cuts(self._all, self.buckets)[: self.top]

    def copied(self) -> Levels:
        """One that stands as this one does, and is not moved with it."""
        self._sorted = self._living  # those who left are sorted out once
        made = copy.copy(self)
        made.alive, made._gone, made._unsettled = self.alive.copy(), [], set(self._unsettled)
        if self.reestimate is not None:  # all other arrays are replaced, never written to
            for name in ("_now", "_followed", "_drawn", "_used"):
                setattr(made, name, getattr(self, name).copy())
        return made

    @property
    def _living(self) -> np.ndarray:
        """The drawn numbers of the prompts that are left, rising."""
        if self._gone:
            self._sorted, self._gone = _changed(self._sorted, self._drawn[self._gone], np.empty(0)), []
        return self._sorted

    def _rank(self, drawn: np.ndarray) -> np.ndarray:
        return levels_of(drawn, self._cuts)

    def _up_to(self, ordered: np.ndarray, level: int) -> int:
        """How many of some rising numbers are on a level or below."""
        if level < 0:
            return 0
        if level >= len(self._cuts):
            return len(ordered)
        return int(np.searchsorted(ordered, self._cuts[level], side="right"))


def difficulties(prompts: Sequence[Prompt], column: str) -> list[float]:
    """The number in `column` of every prompt's record. Raises CurriculumError, naming the prompt, without one."""
    found = []
    for prompt in prompts:
        value = prompt.record.get(column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CurriculumError(
                f"curriculum: prompt {prompt.id!r} has {column}={value!r}, which is no number; the order is by this "
                "column, so every record needs it"
            )
        found.append(float(value))
    return found


def _changed(ordered: np.ndarray, out: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Rising numbers without those of `out`, which are among them, and with those of `into`."""
    out, into = np.sort(out), np.sort(into)
    again = np.arange(len(out)) - np.searchsorted(out, out)  # the how many-th of equal ones
    rest = np.delete(ordered, np.searchsorted(ordered, out) + again)
    return np.insert(rest, np.searchsorted(rest, into), into)


def _written(values: np.ndarray, changes: Mapping[int, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(a copy with some entries changed, which were)."""
    made, which, places = values.copy(), np.zeros(len(values), dtype=bool), list(changes)
    made[places], which[places] = list(changes.values()), True
    return made, which


def _refuse_no_rates(names: Sequence[str], values: np.ndarray) -> None:
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(wrong):
        raise CurriculumError(
            f"curriculum: reestimate needs pass rates, shares from 0 to 1, and prompt {names[int(wrong[0])]!r} has "
            f"{values[wrong[0]]:g}; name another column, or leave it out"
        )
