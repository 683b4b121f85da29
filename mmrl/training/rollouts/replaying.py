"""What ratios are measured against: the log-probs noted while sampling, or those of the trainer's own forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mmrl.config import ConfigError
from mmrl.modalities.adapter import Adapter
from mmrl.types import ActionLogProbs, Group

SAMPLER = "logp_sampler"  # where trajectories keep what the sampler noted, once it is not what ratios are against


@torch.no_grad()
def replay_old(adapter: Adapter, groups: Sequence[Group], micro_batch: int) -> None:
    """Put the trainer's own log-probs of sampled actions, by the weights as they are, in place of the sampler's, which
    trajectories keep as `logp_sampler`. Those that an outside engine sampled have them already.

    A cached forward, token by token, and one over whole sequences round differently in 16 bits.
    Raises ConfigError where the adapter measures its ratios itself.
    """
    samples = [s for g in groups for s in g.samples if SAMPLER not in s.actions.tensors]
    for sample in samples:
        sample.actions.tensors[SAMPLER] = sample.actions.logp.clone()
    refuse = refuse_own_ratios(adapter)
    for number, part in enumerate(adapter.slices(samples, micro_batch)):
        some = [samples[row] for row in part.rows]
        replay = adapter.logprobs(some, part.columns)
        refuse(number, replay)
        for sample, row in zip(some, replay.logp.float().cpu()):
            old = sample.actions.logp
            there = part.columns < len(old)
            trained = there.clone()
            trained[there] = sample.actions.mask[part.columns[there]]
            old[part.columns[trained]] = row[trained]


def refuse_own_ratios(adapter: Adapter) -> Callable[..., None]:
    """What looks at a micro-batch's number and replay; it raises ConfigError where the adapter measures its ratios
    itself."""

    def look(_: int, replay: ActionLogProbs, *__: Any) -> None:
        if replay.log_ratio is not None:
            raise ConfigError(
                f"old_logp: replay goes with ratios of log-probs, and {type(adapter).__name__} gives ratios of its "
                "own; set old_logp: sampler"
            )

    return look
