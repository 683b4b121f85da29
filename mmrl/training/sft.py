"""One supervised step: a batch of records, cut into micro-batches whose losses are averaged exactly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from mmrl.config import SftStage
from mmrl.seeds import seed_of
from mmrl.training.optimizer import NonFiniteError

if TYPE_CHECKING:
    from mmrl.training.trainer import Trainer


def sft_step(trainer: Trainer, stage: SftStage) -> dict[str, Any]:
    """Forward, backward and one optimizer step over `stage.batch` records; returns the metrics row."""
    began = time.monotonic()
    cursor, config, processes = trainer.cursor, trainer.config, trainer.processes
    seed = seed_of(config.seed, stage.name)
    records = trainer.records.batch(cursor.step, stage.batch, seed)
    add_gradient(trainer, records, stage.objective, stage.micro_batch, (seed, cursor.step))
    norm = trainer.optimizer_step(stage, stage.steps)
    cursor.samples += len(records)
    return {
        "loss": processes.total(cursor.sums.get("loss", 0.0)),
        "grad_norm": norm,
        "lr": cursor.sums["lr"],
        "time/step": time.monotonic() - began,
    }


def add_gradient(
    trainer: Trainer,
    records: list[dict[str, Any]],
    objective: str,
    micro_batch: int,
    at: tuple[int, int],
    scale: float = 1.0,
    done: int = 0,
    metric: str = "loss",
) -> None:
    """Accumulate `scale` times the gradient of the supervised loss over the records, this process's share of them.

    at: seed and step, from which each micro-batch's random numbers come.
    done: micro-batches of this optimizer step that come before, so that a run can stop and go on between these, too.
    metric: where the loss is added up for the step's row.
    """
    cursor, processes = trainer.cursor, trainer.processes
    # A loss that is a mean over tokens says how many there are, so that cutting the batch leaves its gradient.
    weigh = getattr(trainer.adapter, "supervised_weight", len)
    total = weigh(records)
    parts = [records[i : i + micro_batch] for i in range(0, len(records), micro_batch)]
    for number, part in enumerate(parts):
        if done + number < cursor.micro or number % processes.world != processes.rank:
            continue
        loss = trainer.adapter.supervised_loss(part, objective, seed_of(*at, number))
        if not torch.isfinite(loss):
            ids = ", ".join(str(r["id"]) for r in part[:8])
            raise NonFiniteError(
                f"supervised loss is {float(loss)} at step {cursor.step + 1}, records {ids}; lower optim.lr or look "
                "at these records"
            )
        share = weigh(part) / total
        (loss * (scale * share)).backward()
        cursor.sums[metric] = cursor.sums.get(metric, 0.0) + float(loss.detach()) * share
        cursor.micro = done + number + 1
        cursor.phase = "update"
        trainer.point("micro")
