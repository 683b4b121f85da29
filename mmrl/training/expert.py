"""Expert mixing (CHORD): a supervised loss on records beside the policy's own, in the same optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmrl.config import GrpoStage
from mmrl.core.schedule import chord_mu
from mmrl.seeds import seed_of
from mmrl.training import sft

if TYPE_CHECKING:
    from mmrl.training.trainer import Trainer


def share(stage: GrpoStage, step: int) -> float:
    """mu of the step: the loss is (1 - mu) of the policy's and mu of the expert's."""
    e = stage.expert
    return chord_mu(step, warmup=e.warmup, decay=e.decay, peak=e.peak, valley=e.valley) if e else 0.0


def add_gradient(trainer: Trainer, stage: GrpoStage, mu: float, done: int) -> None:
    """Accumulate the gradient of mu times the expert loss; done: micro-batches of the policy that come before."""
    expert, update = stage.expert, trainer.cursor.optimizer_steps
    assert expert is not None
    seed = seed_of(trainer.config.seed, stage.name, "expert")
    records = trainer.records.batch(update, expert.batch, seed)
    sft.add_gradient(trainer, records, expert.objective, expert.micro_batch, (seed, update), mu, done, "expert/loss")
