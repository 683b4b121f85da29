"""Expert mixing (CHORD): a supervised loss on records beside the policy's own, in the same optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmrl.config import GrpoStage
from mmrl.core.schedule import chord_mu
from mmrl.seeds import seed_of
from mmrl.training.optimizer import NonFiniteError

if TYPE_CHECKING:
    from mmrl.training.trainer import Trainer


def share(stage: GrpoStage, step: int) -> float:
    """mu of the step: the loss is (1 - mu) of the policy's and mu of the expert's."""
    e = stage.expert
    return chord_mu(step, warmup=e.warmup, decay=e.decay, peak=e.peak, valley=e.valley) if e else 0.0


def add_gradient(trainer: Trainer, stage: GrpoStage, mu: float, done: int) -> None:
    """Accumulate the gradient of mu times the expert loss over a batch of records of its own.

    done: micro-batches of this optimizer step that come before, so that a run can stop and go on between these, too.
    """
    cursor, processes, expert = trainer.cursor, trainer.processes, stage.expert
    assert expert is not None
    seed = seed_of(trainer.config.seed, stage.name, "expert")
    records = trainer.records.batch(cursor.optimizer_steps, expert.batch, seed)
    weigh = getattr(trainer.adapter, "supervised_weight", len)
    total = weigh(records)
    size = expert.micro_batch
    for number, part in enumerate(records[i : i + size] for i in range(0, len(records), size)):
        if done + number < cursor.micro or number % processes.world != processes.rank:
            continue
        loss = trainer.adapter.supervised_loss(part, expert.objective, seed_of(seed, cursor.optimizer_steps, number))
        if not torch.isfinite(loss):
            ids = ", ".join(str(r["id"]) for r in part[:8])
            raise NonFiniteError(f"expert loss is {float(loss.detach())}, records {ids}; look at these records")
        part_of_all = weigh(part) / total
        (mu * part_of_all * loss).backward()
        cursor.sums["expert/loss"] = cursor.sums.get("expert/loss", 0.0) + float(loss.detach()) * part_of_all
        cursor.micro = done + number + 1
        trainer.point("micro")
