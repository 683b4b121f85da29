"""One rollout as tensors: rewards, advantages, and the numbers of samples and actions that an algorithm asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrl.config import GrpoStage
from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch as CoreBatch
from mmrl.core.filter import zero_variance
from mmrl.core.library import registry
from mmrl.core.reduce import Reduce, local
from mmrl.core.resolving import needs
from mmrl.rewarding.run import table
from mmrl.seeds import seed_of
from mmrl.training.conversations import sampled_actions
from mmrl.training.tree import REWARD, places
from mmrl.types import Sample

if TYPE_CHECKING:
    from mmrl.training.trainer import Trainer

# Features of the policy as it is before an update; all others are fixed by the rollout.
OF_THE_POLICY = frozenset({"logp", "entropy", "proxy_logp", "prob_gap2", "fisher"})
COMPUTED = OF_THE_POLICY | {"logp_reference", "token_class"}


@dataclass
class Batch:
    """One rollout as the core sees it: [N] rows of this process, [N, T] actions."""

    samples: list[Sample]
    core: CoreBatch  # what the functions of the core see
    group: Tensor  # [N] place of the group in the step, over all processes
    logp_old: Tensor  # [N, T]
    mask: Tensor  # [N, T]
    advantage: Tensor  # [N], or [N, T] where actions have their own
    reward: Tensor  # [N]
    valid: Tensor  # [N] whether the sample has a reward
    scores: Tensor  # [N, F]
    score_valid: Tensor  # [N, F]
    keep: Tensor  # [N] rows that are replayed: those whose gradient is not zero
    fresh: bool  # whether all were sampled by the weights of this step

    @classmethod
    def of(cls, trainer: Trainer, stage: GrpoStage, algorithm: Algorithm) -> Batch:
        """Advantages over the whole step (all processes); also written back into the samples, for the report."""
        groups = trainer.pending[0]
        samples = [s for g in groups for s in g.samples]
        group = torch.tensor([g.index for g in groups for _ in g.samples], dtype=torch.int64)
        names = [r.name for r in trainer.rewards]
        weights = [r.weight for r in trainer.config.rewards]
        if stage.tree:
            names, weights = [*names, REWARD], [*weights, 1.0]
        scores, valid, applicable = (torch.from_numpy(a) for a in table(groups, names))
        if stage.shuffle_rewards:
            seed = seed_of(trainer.config.seed, "shuffle", trainer.cursor.step)
            order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
            scores, valid, applicable = scores[order], valid[order], applicable[order]
        logp_old, mask = padded(samples)
        reduce = trainer.processes.reduce
        fresh = all(sample.version == trainer.cursor.step for sample in samples)
        known = valid.bool() & applicable.bool()
        core = CoreBatch(
            group,
            places(stage),
            mask,
            reduce,
            scores={name: torch.where(known[:, f], scores[:, f].double(), torch.nan) for f, name in enumerate(names)},
            truncated=torch.tensor([s.stop == "length" for s in samples], dtype=torch.bool),
            length=torch.tensor([sampled_actions(s) for s in samples], dtype=torch.int64),
            logp_old=logp_old,
            logp_sampler=stored(samples, "logp_sampler", mask, reduce),
            columns=columns(samples, needs(algorithm) - COMPUTED, reduce),
            features=features(samples, needs(algorithm) - COMPUTED, mask, reduce)
            | computed(trainer, stage, samples, logp_old, early_needs(algorithm) & COMPUTED, fresh=fresh),
            step=trainer.cursor.step,
        )
        penalty = None
        if algorithm.kl_coef > 0 and algorithm.kl_place == "reward":
            k1 = [s.scores["kl"].value for s in samples]
            penalty = algorithm.kl_coef * torch.tensor(k1, dtype=torch.float64)
        advantage, reward, sample_valid = estimate(
            scores.double(),
            valid.bool(),
            torch.tensor(weights, dtype=torch.float64),
            core,
            algorithm,
            applicable=applicable.bool(),
            penalty=penalty,
        )
        largest = per_sample(advantage, mask)
        for row, sample in enumerate(samples):
            sample.reward = float(reward[row]) if reward[row].isfinite() else None
            sample.advantage = float(largest[row])
            if advantage.ndim == 2:
                sample.advantages = advantage[row, : len(sample.trajectory.logp)].tolist()
        skip = algorithm.drop_zero_variance
        counted = (
            zero_variance(largest, sample_valid, group, places(stage), trainer.processes.reduce)
            if skip
            else sample_valid
        )
        return cls(
            samples,
            core,
            group,
            logp_old,
            mask & counted[:, None],
            advantage.float(),
            reward,
            reward.isfinite(),
            scores,
            known,
            counted & (largest != 0) if skip else counted,
            fresh,
        )


def early_needs(algorithm: Algorithm) -> set[str]:
    """What the hooks that make advantages need, before any update."""
    early = ("shape", "filters", "advantage")
    return {n for field, hook in algorithm.hooks if field in early for n in registry(field).check(hook).needs}


def per_sample(advantage: Tensor, mask: Tensor) -> Tensor:
    """[N] for the report and for what has no signal: of actions with their own, the advantage farthest from 0."""
    if advantage.ndim == 1 or not advantage.shape[1]:
        return advantage if advantage.ndim == 1 else advantage.new_zeros(len(advantage))
    inside = torch.where(mask, advantage, 0.0)
    return inside.gather(1, inside.abs().argmax(1, keepdim=True))[:, 0]


def padded(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """(logp [N, T], mask [N, T]) of samples whose trajectories may differ in length."""
    longest = max((len(s.trajectory.logp) for s in samples), default=0)
    logp, mask = torch.zeros(len(samples), longest), torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        length = len(sample.trajectory.logp)
        logp[row, :length], mask[row, :length] = sample.trajectory.logp, sample.trajectory.mask
    return logp, mask


def stored(samples: Sequence[Sample], name: str, mask: Tensor, reduce: Reduce) -> Tensor | None:
    """[N, T] of what trajectories store per action under `name`, 0 where they end; None unless all have it.

    All of every process: one without samples must go the way of the others.
    """
    rows = [s.trajectory.tensors.get(name) for s in samples]
    without = sum(row is None or row.ndim != 1 for row in rows)
    count, lacking = reduce(torch.tensor([len(rows), without]), "sum").tolist()
    if lacking or not count:
        return None
    found = torch.zeros(mask.shape, dtype=torch.float32)
    for line, row in zip(found, rows):
        line[: len(row)] = row
    return found


def features(samples: Sequence[Sample], names: Iterable[str], mask: Tensor, reduce: Reduce) -> dict[str, Tensor]:
    """Those of the names that the trajectories store per action."""
    found = {name: stored(samples, name, mask, reduce) for name in sorted(names)}
    return {name: values for name, values in found.items() if values is not None}


def columns(samples: Sequence[Sample], names: Iterable[str], reduce: Reduce = local) -> dict[str, Tensor]:
    """Those of the names that a score's details, the environment's info or the prompt's record give; NaN elsewhere.

    A text becomes a whole number that is the same for equal texts, on every process. "version" is the training step
    whose weights drew the sample, "id" the record's id, and "pair" another record's.
    """
    found = {}
    for name in sorted(names):
        values = [s.version if name == "version" else _number(s, name) for s in samples]
        known = any(value is not None for value in values)
        if reduce(torch.tensor(float(known)), "max"):
            given = [torch.nan if value is None else float(value) for value in values]
            found[name] = torch.tensor(given, dtype=torch.float64)
    return found


def _number(sample: Sample, name: str) -> float | None:
    if name in ("id", "pair"):
        record = sample.prompt.id if name == "id" else sample.prompt.record.get("pair")
        return None if record is None else float(seed_of("id", record) % 2**52)
    sources: list[Any] = [score.details for score in sample.scores.values()]
    for source in [*sources, sample.info, sample.prompt.record]:
        if name in source:
            value = source[name]
            return seed_of(name, value) % 2**52 if isinstance(value, str) else float(value)
    return None


def computed(
    trainer: Trainer, stage: GrpoStage, samples: Sequence[Sample], logp_old: Tensor, names: Iterable[str], fresh: bool
) -> dict[str, Tensor]:
    """[N, T] features that the adapter computes with the weights as they are, without gradient.

    fresh: nothing was updated since the rollout, so that "logp" is what was stored.
    Raises ValueError for an adapter that cannot compute them.
    """
    found: dict[str, Tensor] = {}
    if "logp" in names and fresh:
        found["logp"] = logp_old
    rest = sorted(set(names) - set(found))
    if not rest:
        return found
    adapter = trainer.adapter
    if not hasattr(adapter, "features"):
        raise ValueError(
            f"the algorithm needs {', '.join(rest)} of every action, and {type(adapter).__name__} has no `features`; "
            "choose other hooks, or give the adapter that method"
        )
    found |= {name: torch.zeros(logp_old.shape) for name in rest}
    for part in adapter.slices(samples, stage.micro_batch):
        where = (part.rows[:, None], part.columns[None, :])
        made = adapter.features([samples[r] for r in part.rows], part.columns, rest)
        for name in rest:
            found[name][where] = made[name].float().cpu()
    return found
