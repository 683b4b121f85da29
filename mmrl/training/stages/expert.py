"""Expert mixing (CHORD): a supervised loss on records beside the policy's own, in the same optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmrl.config import ExpertConfig
from mmrl.core.schedule import chord_mu
from mmrl.data.records import Records
from mmrl.modalities.adapter import Adapter
from mmrl.training.processes import Processes
from mmrl.training.stages.readable import Readable
from mmrl.training.stages.sft import supervised_gradient


def share(expert: ExpertConfig | None, step: int) -> float:
    """mu of the step: the loss is (1 - mu) of the policy's and mu of the expert's."""
    if expert is None:
        return 0.0
    return chord_mu(step, warmup=expert.warmup, decay=expert.decay, peak=expert.peak, valley=expert.valley)


def expert_gradient(
    adapter: Adapter,
    expert: ExpertConfig,
    records: Records,
    readable: Readable[dict[str, Any]],
    update: int,
    seed: int,
    processes: Processes,
    mu: float,
    start: int,
) -> Iterator[tuple[int, float]]:
    """Accumulate the gradient of mu times the expert loss of the `update`-th optimizer step; see
    supervised_gradient."""
    batch = readable.of(records.batch(update, expert.batch, seed))
    at = (seed, update)
    return supervised_gradient(adapter, batch, expert.objective, expert.micro_batch, at, processes, mu, start)
