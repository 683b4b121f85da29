"""Real samples for the adversary of a distill stage: records, or what the teacher draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mmrl.config import ConfigError, DistillStage
from mmrl.seeds import seed_of
from mmrl.training.run import Run
from mmrl.training.stages.looking import Row
from mmrl.training.stages.readable import Readable
from mmrl.training.stages.sft import record_prompt
from mmrl.types import Group, Sample


class Reals:
    """guidance: of the teacher."""

    def __init__(self, run: Run, options: DistillStage, seed: int, guidance: float | None) -> None:
        self.run, self.options, self.seed, self.guidance = run, options, seed_of(seed, "real"), guidance
        self.readable = Readable(run.processes, run.config.data, record_prompt, run.adapter.check_media)
        self._drawn: dict[tuple[int, int], Sample] = {}  # of the step, by group and number
        self._records: list[dict[str, Any]] = []

    def begin(self, groups: Sequence[Group], step: int, teacher: Callable[[], AbstractContextManager[None]]) -> None:
        """Those of a step, whose groups of this process are given: the same when a step goes on. Every process calls.

        Raises ConfigError where no record can be read.
        """
        adversary, count = self.options.adversary, self.options.groups * self.options.samples
        assert adversary is not None
        if adversary.real == "records":
            assert self.run.data.records is not None  # the config has asked for them
            self._records = self.readable.of(self.run.data.records.batch(step, count, self.seed))
            if not self._records:
                raise ConfigError(
                    f"stage {self.options.name!r}: none of the records of step {step + 1} can be read, and the "
                    "adversary has nothing real; mend data.records"
                )
            return
        asked = [Group(group.prompt, group.index, draw=group.draw) for group in groups]
        with teacher(), self.run.whole():
            made = self.run.adapter.solved(
                asked, self.options.samples, seed_of(self.seed, step), adversary.teacher_steps, self.guidance
            )
        self.take(made)

    def take(self, groups: Sequence[Group]) -> None:
        """What the teacher drew for a step."""
        self._drawn = {(group.index, number): s for group in groups for number, s in enumerate(group.samples)}

    @property
    def drawn(self) -> bool:
        """Whether the teacher has drawn some."""
        return bool(self._drawn)

    def of(self, rows: Sequence[Row]) -> list[Sample]:
        """As many real samples: each row has its own, whoever else is in the micro-batch."""
        if self._drawn:
            return [self._drawn[row.group.index, row.sample.index] for row in rows]
        places = [row.group.index * self.options.samples + row.sample.index for row in rows]
        return self.run.adapter.encoded([self._records[place % len(self._records)] for place in places])
