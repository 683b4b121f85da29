"""Curricula: which prompts come next, from what is known of them and of how well they were answered.

Every process holds the same curriculum and tells it the same results in the same order; what comes next then depends
on the seed and the state alone, not on how many processes there are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.seeds import seed_of
from mmrl.training.rollouts.buckets import permutation, picked, shares
from mmrl.training.rollouts.difficulty import CurriculumError, Levels

LEVELLED = ("staged", "mixed")
ORDERS = ("shuffled", "sorted", *LEVELLED, "shifting")


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
        if not ids or len(set(ids)) < len(ids):
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
        self.index = {name: i for i, name in enumerate(ids)}
        self.levels = Levels(ids, difficulty or [0.0] * len(ids), first, buckets, reestimate)
        self.level = 0
        # In the endless sequence over all prompts, those outside the pool included; of `shifting`, prompts drawn.
        self.position = 0
        self.places = [0] * (self.top + 1)  # staged, shifting: as position, for each level
        self.recent: list[float] = []
        self.retired: set[str] = set()

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
        level, pool = self._pool()
        if self.kind == "staged":
            return [self._next_of(level, pool, seed) for _ in range(count)]
        found: list[int] = []
        while len(found) < count:
            epoch, start = divmod(self.position, len(self.index))
            if start == 0:
                self.levels.settle()
            sequence = self._pass(epoch, seed)
            offset = start
            while offset < len(sequence) and len(found) < count:
                if sequence[offset] in pool:
                    found.append(sequence[offset])
                offset += 1
            self.position += offset - start
        return found

    def record(self, prompt_id: str, pass_rate: float) -> None:
        """How a group was answered: its share of correct samples, of those that have a reward.

        Call it for every group of the step, in the order of their indices, on every process. Groups without any
        reward have no pass rate: leave them out. Raises CurriculumError for an unknown id, or a rate outside [0, 1].
        """
        if prompt_id not in self.index:
            raise CurriculumError(f"curriculum: {prompt_id!r} is not the id of one of its prompts")
        if not 0 <= pass_rate <= 1:
            raise CurriculumError(f"curriculum: pass rate {pass_rate} of {prompt_id!r} is not from 0 to 1")
        if self.retire_at is not None and pass_rate >= self.retire_at:
            self.retired.add(prompt_id)
        self.levels.follow(prompt_id, pass_rate)
        if self.evenly:
            return
        if self.kind in LEVELLED and self.levels.rank[self.index[prompt_id]] == self.level:
            self.recent = [*self.recent, pass_rate][-self.window :]
            if len(self.recent) == self.window and math.fsum(self.recent) / self.window > self.advance_at:
                self._advance(self.level + 1)

    @property
    def exhausted(self) -> bool:
        """Whether every prompt has retired."""
        return len(self.retired) == len(self.index)

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON; save it with the checkpoint."""
        return {
            "level": self.level,
            "position": self.position,
            "places": list(self.places),
            "recent": list(self.recent),
            "retired": sorted(self.retired, key=self.index.__getitem__),
            **self.levels.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises CurriculumError where it belongs to other prompts."""
        unknown = [name for name in (*state["retired"], *state["estimates"]) if name not in self.index]
        if unknown or len(state["places"]) != len(self.places) or not 0 <= state["level"] <= self.top:
            raise CurriculumError(
                f"curriculum: the checkpoint knows level {state['level']} and prompts {unknown[:3]} that the data no "
                "longer has; resume with the data that the run began with"
            )
        self.level, self.position = state["level"], state["position"]
        self.recent, self.retired, self.places = list(state["recent"]), set(state["retired"]), list(state["places"])
        self.levels.load(state)

    def _pass(self, epoch: int, seed: int) -> Sequence[int]:
        """All prompts in the order of one pass; prompts that retire meanwhile do not move the others."""
        sequence = permutation(len(self.index), seed, "order", epoch)
        return sorted(sequence, key=self.levels.rank.__getitem__) if self.kind == "sorted" else sequence

    def _shifted(self, step: int, count: int, seed: int) -> list[int]:
        """The next prompt of each of `count` levels that are drawn; one without a prompt is not."""
        members: dict[int, set[int]] = {}
        for i in self._alive():
            members.setdefault(self.levels.rank[i], set()).add(i)
        likely = shares(self.top + 1, min(1.0, step / max(1, self.steps - 1)))
        weights = [share if level in members else 0.0 for level, share in enumerate(likely)]
        found = []
        for _ in range(count):
            level = picked(weights, random.Random(seed_of(seed, "level", self.position)).random())
            self.position += 1
            found.append(self._next_of(level, members[level], seed))
        return found

    def _next_of(self, level: int, members: set[int], seed: int) -> int:
        """The next of a level's prompts, which come in passes of their own."""
        while True:
            epoch, place = divmod(self.places[level], len(self.index))
            self.places[level] += 1
            prompt = permutation(len(self.index), seed, "order", level, epoch)[place]
            if prompt in members:
                return prompt

    def _alive(self) -> set[int]:
        """Indices of the prompts that have not retired."""
        alive = {i for name, i in self.index.items() if name not in self.retired}
        if not alive:
            raise AllRetired(
                f"curriculum: all {len(self.index)} prompts have reached a pass rate of {self.retire_at:g}; add "
                "prompts, end the stage earlier, or raise retire_at"
            )
        return alive

    def _pool(self) -> tuple[int, set[int]]:
        """(the level that is on, indices of the prompts that may come); one whose prompts have all retired is over."""
        alive, rank = self._alive(), self.levels.rank
        if self.kind not in LEVELLED:
            return 0, alive
        while True:
            lowest = 0 if self.kind == "mixed" else self.level
            if pool := {i for i in alive if lowest <= rank[i] <= self.level}:
                return self.level, pool
            other = self._highest(alive) if self.evenly else None
            if other is None and self.level == self.top:  # nothing is left up here: the most difficult of what is below
                other = max(rank[i] for i in alive)
            if other is not None:
                return other, {i for i in alive if rank[i] == other}
            self._advance(self.level + 1)

    def _highest(self, alive: set[int]) -> int | None:
        """By steps, a level that no prompt ever was in leaves the one before it on until its own time is over; None
        where the level has had prompts, which have retired, or nothing is below."""
        rank = self.levels.rank
        return None if self.level in rank else max((rank[i] for i in alive if rank[i] < self.level), default=None)

    def _advance(self, level: int) -> None:
        """Rise to `level`, or to the last one; never back."""
        if self.level < min(level, self.top):
            self.level, self.recent = min(level, self.top), []
