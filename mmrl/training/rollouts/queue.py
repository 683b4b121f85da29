"""The queue of rollouts that are not used up, filled before each step; in the background: see asynchronous."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mmrl.config import SampledStage
from mmrl.training.cursor import Cursor
from mmrl.training.rollouts.collecting import Collector
from mmrl.training.rollouts.curriculum import AllRetired
from mmrl.training.rollouts.sampling import score_new
from mmrl.training.rollouts.stored import load_queue, save_queue
from mmrl.training.run import Run
from mmrl.training.tensors import CheckpointError
from mmrl.types import Group

ASKED = "asked_{}.json"  # in a checkpoint: what asynchronous rollouts had asked for, by process


class Rollouts:
    """Rollouts of a stage, oldest first; a step uses the first, and drops it when it is done.

    exhausted: whether every prompt has retired, so that no step can follow.
    """

    def __init__(self, run: Run, options: SampledStage, cursor: Cursor, collector: Collector) -> None:
        self.run, self.options, self.cursor, self.collector = run, options, cursor, collector
        self.queue: list[list[Group]] = []
        self.exhausted = False

    @property
    def n_groups(self) -> int:
        """Groups that a step can have, over all processes: every iteration of a tree branches once at most, and ways
        part at each step."""
        tree = self.options.searched
        steps = self.run.adapter.branch_steps if self.options.parted else 1
        return self.options.groups * (tree.iterations if tree else steps)

    def next(self) -> list[Group]:
        """This process's groups for the step; sampled first, where they do not wait already.

        Raises AllRetired; behind the first step the stage is then `exhausted`.
        """
        sampled = self._fill()
        self.cursor.phase = "update"
        if sampled:
            self.run.point("rollout")
        return self.queue[0]

    def drop(self) -> None:
        """The step is done with the first."""
        self.queue = self.queue[1:]
        self.exhausted = not self.queue and self.collector.curriculum.exhausted

    def close(self) -> None:
        """The stage is over."""

    def _fill(self) -> bool:
        """Sample until the step's rollout, and those of the next `ahead` steps, wait; returns whether any was.

        The first step fills the queue with the weights that it starts from, every later one adds the rollout for
        `ahead` steps later, and nothing is sampled that no step would use.
        """
        step, options = self.cursor.step, self.options
        wanted = min(options.ahead + 1, options.steps - step)
        missing = range(step + len(self.queue), step + wanted)
        if not missing:
            return False
        before, divided = len(self.queue), self.run.adapter.samples_divided
        ended: AllRetired | None = None
        with self._all_or_none() if divided else nullcontext():
            with self.run.sampling():
                for number in missing:
                    try:
                        self.queue.append(self.collector.collect(number))
                    except AllRetired as error:  # the rollouts that wait are the last
                        ended = error
                        break
            for groups in self.queue[before:] if divided else ():
                self.collector.finish(groups)
        if ended is not None and not self.queue:
            self.exhausted = step > 0
            raise ended
        return len(self.queue) > before

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """Groups that were collected and not finished are sampled anew by a resume."""
        before = len(self.queue)
        try:
            with self.collector.curriculum.kept_on_failure():
                yield
        except BaseException:
            del self.queue[before:]
            raise

    # ---------------------------------------------------------------- a part of a checkpoint

    def state(self) -> dict[str, Any]:
        return {"curriculum": self.collector.curriculum.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.collector.curriculum.load(state["curriculum"])
        self.exhausted = self.cursor.step > 0 and self.collector.curriculum.exhausted

    def save(self, folder: Path) -> None:
        """This process's part."""
        save_queue(folder, self.run.processes.rank, self.queue)

    def load_groups(self, folder: Path) -> None:
        """This process's share, whatever number of processes saved; prompts get back the records that they had."""
        processes = self.run.processes
        if any(folder.glob(ASKED.format("*"))):
            raise CheckpointError(
                f"{folder} was saved with groups under way (asynchronous): go on with the stage's `asynchronous`"
            )
        self.queue = load_queue(folder, processes.rank, processes.world, self.collector.prompts)
        self.exhausted = self.exhausted and not self.queue
        groups = [group for groups in self.queue for group in groups]
        if self.options.rewarded and not self.options.searched:  # the branchings of a tree have scores of their own
            score_new(self.run, groups)
        self.collector.score_missing_kl(groups)
