"""Curricula: which prompts come next, from what is known of them and of how well they were answered.

Every process holds the same curriculum and tells it the same results in the same order; what comes next then depends
on the seed and the state alone, not on how many processes there are. A step looks at the prompts that it draws and at
those whose results it is told, not at all that there are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mmrl.data.held import Names
from mmrl.seeds import seed_of
from mmrl.training.rollouts.buckets import permutation, picked, shares
from mmrl.training.rollouts.difficulty import CurriculumError, Levels

LEVELLED = ("staged", "mixed")
ORDERS = ("shuffled", "sorted", *LEVELLED, "shifting")
LOOKED_AT = 1024  # prompts of a pass at once, when one is sought that may come


class AllRetired(CurriculumError):
    """No prompt is left to ask."""


class Curriculum:
    """An endless sequence of prompts, in passes; a pass asks for each prompt of the pool once.

    ids: the prompts' ids. difficulty: a number for each (`difficulties` reads a column); not needed for `shuffled`.
    first: which numbers come first: low, as of a difficulty, or high, as of a pass rate.
    buckets: levels are so many buckets of about as many prompts each; None: the different numbers. See buckets.levels.
    order: shuffled, a new permutation for each pass.
        sorted, level by level in each pass (SARI: by falling pass rate); equal ones shuffled.
        staged, only the prompts of the current level, shuffled, in passes that begin with it; see `record`.
        mixed, the prompts of the current level and of those before it, shuffled.
        shifting, each from a level drawn by buckets.shares of the steps that are done: at first mostly the first
        levels, at last mostly the last ones. A level's prompts come in passes of their own.
    advance: evenly, level b of B begins when b / B of `steps` are done; one without prompts leaves the one before
        it on. pass_rate, by the next three.
    advance_at, window: the next level begins when the mean pass rate of the last `window` results of the current one
        is above advance_at, as in SATURN; its 0.75 (and 0.5) is from memory, and it evaluates where we look at the
        training groups.
    advance_every: the next level also begins after this many steps; None leaves it to the pass rate.
    reestimate: numbers that are pass rates follow the rollouts, p <- (1 - reestimate) p + reestimate * rate; levels are
        drawn anew from them before each step, for `sorted` before each pass. None: they stay.
    steps: of the stage; where `advance` is evenly, and for `shifting`.
    retire_at: a prompt whose pass rate reaches it leaves for good: ScaleRL's no-positive-resampling, 0.9 there.

    Raises CurriculumError.
    """

    def __init__(
        self,
        ids: Sequence[str],
        difficulty: Sequence[float] | None = None,
        *,
        order: str = "shuffled",
        first: str = "low",
        buckets: int | None = None,
        advance: str = "pass_rate",
        advance_at: float = 0.75,
        window: int = 32,
        advance_every: int | None = None,
        reestimate: float | None = None,
        retire_at: float | None = None,
        steps: int = 1,
    ) -> None:
        if order not in ORDERS:
            raise CurriculumError(f"curriculum: order={order!r} is not known; use one of {', '.join(ORDERS)}")
        self.ids = ids if isinstance(ids, Names) else Names(ids)
        if not self.ids or not self.ids.differ:
            raise CurriculumError("curriculum: needs prompts whose ids all differ")
        if order != "shuffled" and difficulty is None:
            raise CurriculumError(f"curriculum: order={order!r} needs a difficulty for each prompt; name a column")
        if difficulty is not None and len(difficulty) != len(ids):
            raise CurriculumError(f"curriculum: {len(difficulty)} difficulties for {len(ids)} prompts")
        if window < 1 or (advance_every is not None and advance_every < 1):
            raise CurriculumError("curriculum: window and advance_every must be 1 or more")
        self.kind, self.advance_at, self.window = order, advance_at, window
        self.advance_every, self.retire_at = advance_every, retire_at
        self.evenly, self.steps = advance == "evenly", steps
        values = np.zeros(len(ids)) if difficulty is None else difficulty
        self.levels = Levels(ids, values, first, buckets, reestimate)
        self.level = 0
        # In the endless sequence over all prompts, those outside the pool included; of `shifting`, prompts drawn.
        self.position = 0
        self.places = [0] * (self.top + 1)  # staged, shifting: as position, for each level
        self.recent: list[float] = []
        self._sorted: tuple[object, np.ndarray] = (None, np.empty(0))  # the pass that is on, and what it is of

    @property
    def top(self) -> int:
        """The last level."""
        return self.levels.top

    def order(self, step: int, count: int, seed: int) -> list[int]:
        """The next `count` prompts, as indices; a second call goes on where the first ended (to refill a step).

        A prompt may occur twice where `count` reaches over the end of a pass. Raises AllRetired when every prompt has
        retired.
        """
        if self.kind != "sorted":
            self.levels.settle()
        if self.kind == "shifting":
            return self._shifted(step, count, seed)
        if self.evenly:
            self._advance(step * (self.top + 1) // self.steps)
        elif self.advance_every is not None:
            self._advance(step // self.advance_every)
        lowest, level = self._pool()
        if self.kind == "staged":
            return [self._next_of(level, seed) for _ in range(count)]

        def may_come(some: np.ndarray) -> np.ndarray:
            return self.levels.alive[some] & self._on(some, lowest, level)

        found: list[int] = []
        while len(found) < count:
            epoch, start = divmod(self.position, len(self.ids))
            if start == 0:
                self.levels.settle()
            some, place = _sought(self._pass(epoch, seed), start, count - len(found), may_come)
            found += some
            self.position += place - start
        return found

    def record(self, prompt_id: str, pass_rate: float) -> None:
        """How a group was answered: its share of correct samples, of those that have a reward.

        Call it for every group of the step, in the order of their indices, on every process. Groups without any
        reward have no pass rate: leave them out. Raises CurriculumError for an unknown id, or a rate outside [0, 1].
        """
        if prompt_id not in self.ids:
            raise CurriculumError(f"curriculum: {prompt_id!r} is not the id of one of its prompts")
        if not 0 <= pass_rate <= 1:
            raise CurriculumError(f"curriculum: pass rate {pass_rate} of {prompt_id!r} is not from 0 to 1")
        prompt = self.ids.place(prompt_id)
        if self.retire_at is not None and pass_rate >= self.retire_at:
            self.levels.retire(prompt)
        self.levels.follow(prompt, pass_rate)
        if self.evenly:
            return
        if self.kind in LEVELLED and self.levels.of(np.array([prompt]))[0] == self.level:
            self.recent = [*self.recent, pass_rate][-self.window :]
            if len(self.recent) == self.window and math.fsum(self.recent) / self.window > self.advance_at:
                self._advance(self.level + 1)

    def pass_over(self, prompt: int) -> None:
        """A prompt, by its index, that cannot be asked leaves for good."""
        self.levels.retire(prompt)

    @property
    def exhausted(self) -> bool:
        """Whether every prompt has retired, or was passed over."""
        return self.levels.left == 0

    @contextmanager
    def kept_on_failure(self) -> Iterator[None]:
        """Where the block fails, the curriculum is as it was before it."""
        before = self.level, self.position, self.recent, list(self.places), self.levels.copied()
        try:
            yield
        except BaseException:
            self.level, self.position, self.recent, self.places, self.levels = before
            self._sorted = (None, np.empty(0))
            raise

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON; save it with the checkpoint."""
        return {
            "level": self.level,
            "position": self.position,
            "places": list(self.places),
            "recent": list(self.recent),
            "retired": [self.ids[prompt] for prompt in np.flatnonzero(~self.levels.alive).tolist()],
            "estimates": {self.ids[prompt]: value for prompt, value in self.levels.estimates.items()},
            "used": {self.ids[prompt]: value for prompt, value in self.levels.used.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises CurriculumError where it belongs to other prompts."""
        unknown = [name for name in (*state["retired"], *state["estimates"]) if name not in self.ids]
        if unknown or len(state["places"]) != len(self.places) or not 0 <= state["level"] <= self.top:
            raise CurriculumError(
                f"curriculum: the checkpoint knows level {state['level']} and prompts {unknown[:3]} that the data no "
                "longer has; resume with the data that the run began with"
            )
        self.level, self.position = state["level"], state["position"]
        self.recent, self.places = list(state["recent"]), list(state["places"])
        estimates, used = (
            {self.ids.place(name): value for name, value in state[key].items()} for key in ("estimates", "used")
        )
        self.levels.load(estimates, used, [self.ids.place(name) for name in state["retired"]])
        self._sorted = (None, np.empty(0))

    def _pass(self, epoch: int, seed: int) -> np.ndarray:
        """All prompts in the order of one pass; prompts that retire meanwhile do not move the others."""
        sequence = permutation(len(self.ids), seed, "order", epoch)
        if self.kind != "sorted":
            return sequence
        if self._sorted[0] != (epoch, seed):  # levels move between passes only
            self._sorted = (epoch, seed), sequence[np.argsort(self.levels.of(sequence), kind="stable")]
        return self._sorted[1]

    def _shifted(self, step: int, count: int, seed: int) -> list[int]:
        """The next prompt of each of `count` levels that are drawn; one without a prompt is not."""
        self._refuse_none()
        there = (self.levels.counts() > 0).tolist()
        likely = shares(self.top + 1, min(1.0, step / max(1, self.steps - 1)))
        weights = [share if some else 0.0 for some, share in zip(there, likely)]
        found = []
        for _ in range(count):
            level = picked(weights, random.Random(seed_of(seed, "level", self.position)).random())
            self.position += 1
            found.append(self._next_of(level, seed))
        return found

    def _next_of(self, level: int, seed: int) -> int:
        """The next of a level's prompts, which come in passes of their own."""

        def may_come(some: np.ndarray) -> np.ndarray:
            return self.levels.alive[some] & (self.levels.of(some) == level)

        while True:
            epoch, start = divmod(self.places[level], len(self.ids))
            found, place = _sought(permutation(len(self.ids), seed, "order", level, epoch), start, 1, may_come)
            self.places[level] += place - start
            if found:
                return found[0]

    def _on(self, some: np.ndarray, lowest: int, level: int) -> np.ndarray:
        """Whether these prompts are on one of the levels."""
        if self.kind not in LEVELLED:
            return np.ones(len(some), dtype=bool)
        levels = self.levels.of(some)
        return (lowest <= levels) & (levels <= level)

    def _refuse_none(self) -> None:
        if self.exhausted and self.retire_at is None:
            raise AllRetired(f"curriculum: none of {len(self.ids)} prompts can be used")
        if self.exhausted:
            raise AllRetired(
                f"curriculum: all {len(self.ids)} prompts have reached a pass rate of {self.retire_at:g}, or cannot be "
                "used; add prompts, end the stage earlier, or raise retire_at"
            )

    def _pool(self) -> tuple[int, int]:
        """(the lowest, the highest level that prompts may come from); one whose prompts have all retired is over."""
        self._refuse_none()
        if self.kind not in LEVELLED:
            return 0, 0
        while True:
            lowest = 0 if self.kind == "mixed" else self.level
            if self.levels.any_between(lowest, self.level):
                return lowest, self.level
            other = self._highest() if self.evenly else None
            if other is None and self.level == self.top:  # nothing is left up here: the most difficult of what is below
                other = self.levels.highest()
            if other is not None:
                return other, other
            self._advance(self.level + 1)

    def _highest(self) -> int | None:
        """By steps, a level that no prompt ever was in leaves the one before it on until its own time is over; None
        where the level has had prompts, which have retired, or nothing is below."""
        return None if self.levels.ever_had(self.level) else self.levels.highest(below=self.level)

    def _advance(self, level: int) -> None:
        """Rise to `level`, or to the last one; never back."""
        if self.level < min(level, self.top):
            self.level, self.recent = min(level, self.top), []


def _sought(
    sequence: np.ndarray, start: int, count: int, may_come: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[int], int]:
    """(up to `count` prompts of a sequence from `start` on that may come, the place behind the last one looked at).

    may_come: of prompts, [n] bool. The end of the sequence is the end of the search.
    """
    found: list[int] = []
    width = max(count, LOOKED_AT)
    while start < len(sequence) and len(found) < count:
        some = sequence[start : start + width]
        places = np.flatnonzero(may_come(some))[: count - len(found)]
        found += some[places].tolist()
        start += int(places[-1]) + 1 if len(found) == count else len(some)
        width *= 4
    return found, start
