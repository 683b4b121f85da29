"""The supervised stage: a batch of records a step, cut into micro-batches whose losses are averaged exactly."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from mmrl.config import SftStage
from mmrl.data.records import KeptRecords, Records, record_columns
from mmrl.modalities.adapter import Adapter
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.learner import refuse_non_finite
from mmrl.training.policy import Policy
from mmrl.training.processes import Processes
from mmrl.training.run import Run
from mmrl.training.run_folder import result_path
from mmrl.training.stages.base import Stage
from mmrl.training.stages.readable import Readable
from mmrl.training.stages.rows import tell_empty
from mmrl.types import Prompt

SAMPLE = 512  # records that `Adapter.finish` sees


class Sft(Stage[SftStage]):
    """Supervised training on the run's records, its own options of them, or what a filter stage kept."""

    Options = SftStage

    def __init__(self, run: Run, options: SftStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor)
        self.records = self._records()
        self.readable = Readable(run.processes, run.config.data, record_prompt, run.adapter.check_media)

    def _records(self) -> Any:
        options, data = self.options, self.run.config.data
        if options.data_from:
            return KeptRecords(result_path(self.run.folder, options.data_from), data.max_pixels, data.max_seconds)
        if options.options is not None:
            data = data.model_copy(update={"options": options.options})
            return Records(data, record_columns(self.run.adapter, [options.objective]))
        return self.run.data.records

    def step(self) -> dict[str, Any]:
        """Forward, backward and one optimizer step over `batch` records; of none that can be read there is no loss."""
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        records = self.readable.of(self.records.batch(cursor.step, options.batch, self.seed))
        cursor.phase = "update"
        parts = supervised_gradient(
            run.adapter,
            records,
            options.objective,
            options.micro_batch,
            at=(self.seed, cursor.step),
            processes=run.processes,
            start=cursor.micro,
        )
        for number, loss in parts:
            cursor.sums.add({"loss": loss})
            cursor.micro = number + 1
            run.point("micro")
        learner = self.learners["policy"]
        norm = learner.step()
        cursor.samples += len(records)
        if not records:
            tell_empty(cursor.total_steps + 1, run.processes)
        return {
            "loss": cursor.sums.combined(run.processes).parts.get("loss"),
            "grad_norm": norm,
            "lr": learner.rate,
            "time/step": time.monotonic() - began,
        }

    def end(self) -> None:
        self.run.adapter.finish(self.options.objective, self.records.batch(0, SAMPLE, self.run.seed))


def record_prompt(record: dict[str, Any]) -> Prompt:
    """A supervised record, whose pictures stand without their folder, as a prompt."""
    return Prompt(str(record.get("id")), "", record)


def supervised_gradient(
    adapter: Adapter,
    records: Sequence[dict[str, Any]],
    objective: str,
    micro_batch: int,
    at: tuple[int, int],
    processes: Processes,
    scale: float = 1.0,
    start: int = 0,
) -> Iterator[tuple[int, float]]:
    """Accumulate `scale` times the gradient of the supervised loss over the records, this process's share of them.

    Yields, behind each micro-batch, its number and its share of the mean loss. at: seed and step, from which each
    micro-batch's random numbers come. start: micro-batches that are done already.
    Raises NonFiniteError for a loss that is not a number, with the records' ids.
    """
    # A loss that is a mean over tokens says how many there are, so that cutting the batch leaves its gradient.
    total = adapter.supervised_weight(records)
    parts = [records[i : i + micro_batch] for i in range(0, len(records), micro_batch)]
    for number, part in enumerate(parts):
        if number < start or number % processes.world != processes.rank:
            continue
        loss = adapter.supervised_loss(part, objective, seed_of(*at, number))
        refuse_non_finite("supervised loss", float(loss.detach()), at[1] + 1, (str(r.get("id", "?")) for r in part))
        share = adapter.supervised_weight(part) / total
        (loss * (scale * share)).backward()
        yield number, float(loss.detach()) * share
    if adapter.shards is not None and processes.rank >= len(parts) % processes.world > 0:
        # Where weights are divided, every process takes part in every micro-batch of the others.
        (0.0 * adapter.supervised_loss(parts[0][:1], objective, seed_of(*at, 0))).backward()
