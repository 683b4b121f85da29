"""One optimizer step's gradient, from a rollout: what it is over, and what each micro-batch adds. No loop, no state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrl.config import ConfigError
from mmrl.copying import to_device
from mmrl.core import aggregate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.resolving import needs, needs_reference
from mmrl.core.step import policy_loss
from mmrl.core.terms import NEED_ENTROPY, OVER_SEQUENCES
from mmrl.core.update import prepare_update
from mmrl.modalities.adapter import Adapter
from mmrl.training.stages.experience import COMPUTED, Experience, Features, padded, policy_features
from mmrl.types import ActionLogProbs, Sample, Slice


@dataclass(frozen=True)
class Update:
    """One optimizer step over some groups of a rollout; [N, T] as in its experience.

    batch: with the final mask, and what hooks have prepared. weights: of each action in the loss, over all processes.
    action_weight: scales the policy's term of each action; None: does not. rows: [R], the samples to replay.
    found: metrics that are known before any replay, such as how far the sampler's log-probs are off.
    """

    experience: Experience
    algorithm: Algorithm
    batch: Batch
    weights: Tensor
    action_weight: Tensor | None
    rows: Tensor
    found: dict[str, float]

    @property
    def samples(self) -> list[Sample]:
        """Those to replay."""
        return [self.experience.samples[r] for r in self.rows]


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch gave: its number, its loss and metrics (of mmrl.core.step), and what was replayed."""

    number: int
    loss: float
    metrics: Mapping[str, Tensor | float]
    samples: list[Sample]


def groups_of_update(n_groups: int, updates: int, part: int, seed: int) -> Tensor:
    """[n_groups] bool: the `part`-th of `updates` even shares of the groups, in an order that the seed gives."""
    order = torch.randperm(n_groups, generator=torch.Generator().manual_seed(seed))
    size = n_groups // updates
    chosen = torch.zeros(n_groups, dtype=torch.bool)
    chosen[order[part * size : (part + 1) * size]] = True
    return chosen


def plan_update(
    experience: Experience,
    algorithm: Algorithm,
    chosen: Tensor | None = None,
    features: Features | None = None,
    fresh: bool = True,
) -> Update:
    """What an optimizer step over the chosen groups ([n_groups] bool; None is all) is made of.

    Aggregation weights are made for the whole update over all processes, so that neither the cut into micro-batches nor
    the number of processes changes the gradient. Every process must call.
    fresh: nothing was updated since the rollout.
    """
    whole = experience.batch
    inside = torch.ones(len(whole), dtype=torch.bool) if chosen is None else chosen[whole.group]
    logp_old = whole.needed("logp_old", whole.logp_old)
    made = policy_features(
        experience.samples, logp_old, needs(algorithm) & COMPUTED, features, fresh and experience.fresh
    )
    batch = dataclasses.replace(whole, mask=experience.mask & inside[:, None]).having(features=made)
    batch, action_weight, found = prepare_update(batch, experience.advantage, algorithm)
    weights = aggregate.weights(
        algorithm.aggregate,
        batch.mask,
        batch.group,
        batch.n_groups,
        batch.reduce,
        constant_length=algorithm.constant_length,
    )
    rows = torch.nonzero(inside & experience.replayed).flatten()
    return Update(experience, algorithm, batch, weights, action_weight, rows, found)


def given_update(
    samples: Sequence[Sample], advantage: Tensor, algorithm: Algorithm, mask: Tensor | None = None
) -> Update:
    """An update over samples whose advantages [N] are given, each a group of its own: for checks and benchmarks.

    mask: [N, T] bool, narrower than the trajectories' own.
    """
    logp_old, trained = padded(samples)
    mask = trained if mask is None else trained & mask
    everyone = torch.ones(len(samples), dtype=torch.bool)
    batch = Batch(torch.arange(len(samples)), len(samples), mask, logp_old=logp_old)
    no_scores = torch.zeros(len(samples), 0)
    experience = Experience(
        list(samples), batch, advantage, advantage, [], no_scores, no_scores.bool(), everyone, everyone, fresh=True
    )
    return plan_update(experience, algorithm)


def micro_batches(adapter: Adapter, update: Update, budget: int) -> list[Slice]:
    """The update's micro-batches, rows counting in `update.samples`.

    Raises ConfigError where the adapter cuts sequences over all of whose actions a ratio is.
    """
    slices = list(adapter.slices(update.samples, budget))
    _refuse_cut_sequences(update, slices)
    return slices


def gradient(
    adapter: Adapter,
    update: Update,
    slices: Sequence[Slice],
    *,
    scale: float = 1.0,
    start: int = 0,
    on_replay: Callable[[int, ActionLogProbs, Batch], None] | None = None,
    own: bool = False,
) -> Iterator[MicroBatch]:
    """Accumulate `scale` times the gradient of the update's loss, micro-batch by micro-batch; yields behind each.

    slices: of `micro_batches`. start: how many of them are done already. on_replay: sees the number of each, its replay
    and its part of the batch before the loss is made. own: ratios are measured against this very replay, as nothing
    was updated since the rollout: all are 1.
    A loss that is not finite is yielded without a backward.
    """
    algorithm, samples, rows, batch = update.algorithm, update.samples, update.rows, update.batch
    asks = {"reference": compares(algorithm)}
    if {hook.name for hook in algorithm.terms} & NEED_ENTROPY:
        asks["entropy"] = True
    advantage = update.experience.advantage
    for number, part in enumerate(slices):
        if number < start:
            continue
        some, chosen = [samples[r] for r in part.rows], rows[part.rows]
        where = (chosen[:, None], part.columns[None, :])
        replay = adapter.logprobs(some, part.columns, **asks)
        device = replay.logp.device
        cut = batch.at(chosen, part.columns).to(device)
        if on_replay is not None:
            on_replay(number, replay, cut)
        loss, metrics = policy_loss(
            replay,
            replay.logp.detach() if own else cut.needed("logp_old", cut.logp_old),
            cut.mask,
            to_device(advantage[chosen if advantage.ndim == 1 else where], device),
            to_device(update.weights[where], device),
            algorithm,
            batch=cut,
            action_weight=None if update.action_weight is None else to_device(update.action_weight[where], device),
        )
        if loss.requires_grad and torch.isfinite(loss):
            (scale * loss).backward()
        yield MicroBatch(number, float(loss.detach()), metrics, some)


def fill(adapter: Adapter, sample: Sample, count: int, reference: bool = False) -> None:
    """As many forwards and backwards as `count` micro-batches make, whose gradient is zero: of the first trained action
    of the sample. reference: whether they run the reference, too."""
    columns = torch.nonzero(sample.actions.mask)[:1, 0]
    for _ in range(count):
        replay = adapter.logprobs([sample], columns, **({"reference": True} if reference else {}))
        (0.0 * replay.logp.sum()).backward()


def compares(algorithm: Algorithm) -> bool:
    """Whether each micro-batch also runs the reference."""
    return needs_reference(algorithm) and algorithm.kl_place == "loss"


def _refuse_cut_sequences(update: Update, slices: Sequence[Slice]) -> None:
    """Raise ConfigError where a micro-batch holds a part of a sequence, and the ratio is over the whole of it."""
    over = [f"term {hook.name!r}" for hook in update.algorithm.terms if hook.name in OVER_SEQUENCES]
    if update.algorithm.ratio != "token":
        over.append(f"ratio={update.algorithm.ratio!r}")
    if not over:
        return
    mask = update.batch.mask[update.rows]
    for part in slices:
        outside = mask[part.rows].clone()
        outside[:, part.columns] = False
        if outside.any():
            raise ConfigError(
                f"micro_batch is too small: {over[-1]} is over all actions of a sequence, of which the longest has "
                f"{int(mask.sum(1).max())}, and a micro-batch holds {len(part.columns)}; raise the stage's micro_batch"
            )
