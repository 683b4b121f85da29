"""The gradient of an update on the forward process, micro-batch by micro-batch: no loop, no state of a run.

A draw is a time and a noise at which a sample is trained; the draws of a sample take the places of actions [N, K].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmrl.config import ConfigError, ForwardProcessStage, TimesConfig, TrainedTimes
from mmrl.core import flow_match
from mmrl.core.denoising_preference import dgpo, dgpo_clip, dgpo_logits
from mmrl.core.forward_process import awm, matching_logp, nft
from mmrl.core.registry import Hook
from mmrl.modalities.adapter import Adapter
from mmrl.seeds import seed_of
from mmrl.training.stages.update import MicroBatch, Update
from mmrl.types import Group, Noised, Sample

# How far x may be off the path, of its largest number: as 16-bit latents round.
ON_THE_PATH = 0.02


@dataclass(frozen=True)
class Draws:
    """times [N, K] float32, seeds [N][K] of the noises."""

    times: Tensor
    seeds: list[list[int]]

    @classmethod
    def of(cls, groups: Sequence[Group], options: ForwardProcessStage, seed: int, adapter: Adapter) -> Draws:
        """The draws of an update, of all samples of the groups in their order.

        They depend on the seed, the group's key and the sample's number: neither on the process nor on the batch.
        """
        names = [
            (group.key, "all" if options.noises_alike else sample.index) for group in groups for sample in group.samples
        ]
        return cls.named(names, options.draws, options.times, seed, adapter)

    @classmethod
    def named(
        cls, names: Sequence[tuple[Any, ...]], count: int, times: TimesConfig, seed: int, adapter: Adapter
    ) -> Draws:
        """`count` draws for each name, the same for equal ones."""
        uniform = torch.empty(len(names), count, dtype=torch.float64)
        for row, name in zip(uniform, names):
            torch.rand(len(row), generator=torch.Generator().manual_seed(seed_of(seed, *name)), out=row)
        # A draw of exactly 0 would be a time without noise, or -inf of a normal number.
        even = flow_match.stratified(uniform).clamp(1e-6, 1 - 1e-6)
        placed = _placed(even, times, adapter).float()
        return cls(placed, [[seed_of(seed, *name, number) for number in range(count)] for name in names])


def _placed(even: Tensor, times: TimesConfig, adapter: Adapter) -> Tensor:
    """[N, K]: the times of draws in (0, 1)."""
    if isinstance(times, TrainedTimes) and times.name == "sampler":
        steps = adapter.sampler_times().double().cpu()
        count = max(1, math.floor(len(steps) * times.share + 1e-9))
        return steps[:count][(even * count).long()]
    return flow_match.TIMES.bind(Hook(times.name, times.options))(even)


Context = Callable[[], AbstractContextManager[None]]


class Others(NamedTuple):
    """Contexts in which the adapter is another policy. old: the one that sampled; None: the policy itself, as nothing
    was updated since. reference, ema: None where nothing compares with it."""

    old: Context | None
    reference: Context | None
    ema: Context | None = None


def pairs_of(update: Update, draws: int, micro_batch: int) -> list[Tensor]:
    """Micro-batches [b, 2] of (row in the experience, draw), sample by sample."""
    pairs = torch.cartesian_prod(update.rows, torch.arange(draws)).view(-1, 2)
    return list(pairs.split(micro_batch)) if len(pairs) else []


def forward_gradient(
    adapter: Adapter,
    update: Update,
    draws: Draws,
    options: ForwardProcessStage,
    others: Others,
    start: int = 0,
    more: int = 0,
    spare: Sample | None = None,
) -> Iterator[MicroBatch]:
    """Accumulate the gradient of the update's loss; yields behind each micro-batch. start: how many are done already.
    more: how many other processes have besides (see together.missing), in which this one takes part with `spare`.

    Every process must call, also without samples: with dgpo the logits of groups are made of all of them first.
    A loss that is not finite is yielded without a backward.
    """
    parts = pairs_of(update, draws.times.shape[1], options.micro_batch)
    extra = [] if spare is None else [_Asked.alone(spare)] * more
    logits = _logits(adapter, update, draws, parts, options, others, extra) if options.objective == "dgpo" else None
    for number, part in enumerate(parts):
        if number < start:
            continue
        asked = _Asked.of(update, draws, part)
        now = asked.of_policy(adapter)
        if number == start:
            refuse_other_path(adapter, now, asked.times)
        loss, metrics = _objective(adapter, update, asked, now, logits, options, others)
        weights = update.weights[part[:, 0], part[:, 1]].to(loss)
        total = (weights * loss).sum()
        for name, weight, other in (
            ("reference", options.reference_coef, others.reference),
            ("ema", options.ema_coef, others.ema),
        ):
            if weight > 0:
                assert other is not None
                apart = flow_match.distance(now.velocity, asked.of_other(adapter, other).velocity)
                total = total + weight * (weights * apart).sum()
                metrics = {**metrics, name: apart.detach()}
        if torch.isfinite(total):
            total.backward()
        error = flow_match.matching_error(now.velocity.detach(), now.clean, now.noise)
        sums = {name: value.double().sum() for name, value in {**metrics, "error": error}.items()}
        yield MicroBatch(number, float(total.detach()), {**sums, "draws": torch.tensor(len(part))}, asked.samples)
    for asked in extra:
        now = asked.of_policy(adapter)
        for other in _compared(update, options, others):
            asked.of_other(adapter, other)
        (0.0 * now.velocity.sum()).backward()


def _compared(update: Update, options: ForwardProcessStage, others: Others) -> list[Context]:
    """Whom a micro-batch asks besides the policy, one after the other."""
    uncut = options.objective == "dgpo" and update.algorithm.gate.name == "none"
    asked = (
        None if uncut else others.old,
        others.reference if options.reference_coef > 0 else None,
        others.ema if options.ema_coef > 0 else None,
    )
    return [context for context in asked if context is not None]


def refuse_other_path(adapter: Adapter, found: Noised, times: Tensor) -> None:
    """Raise ConfigError where `x` is not where a straight path is at these times: time may run the other way."""
    wanted = flow_match.noised(found.clean, found.noise, times)
    gap = float((found.x.detach().to(wanted) - wanted).abs().max())
    if not gap <= ON_THE_PATH * float(wanted.abs().max()):
        raise ConfigError(
            f"{type(adapter).__name__}.velocities: x is off (1 - t) clean + t noise by {gap:.1e}; t is 0 at the data, "
            "1 at the noise, and the velocity is noise - clean"
        )


def _objective(
    adapter: Adapter,
    update: Update,
    asked: _Asked,
    now: Noised,
    logits: Tensor | None,
    options: ForwardProcessStage,
    others: Others,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """(loss [b], metrics [b]) of the objective."""
    advantage = update.experience.advantage[asked.rows].to(now.velocity.device)
    if options.objective == "dgpo":
        assert logits is not None
        return _dgpo(adapter, update, asked, now, logits, options, others)
    old = now.velocity.detach() if others.old is None else asked.of_other(adapter, others.old).velocity
    times = asked.times.to(now.velocity.device)
    if options.objective == "nft":
        return nft(
            now.velocity,
            old,
            now.clean,
            now.x,
            times,
            advantage,
            beta=options.strength,
            saturation=options.saturation,
        )
    logp, logp_old = (
        matching_logp(v, now.clean, now.noise, times, weighting=options.weighting, power=options.power)
        for v in (now.velocity, old)
    )
    return awm(logp, logp_old, advantage, update.algorithm)


def _dgpo(
    adapter: Adapter,
    update: Update,
    asked: _Asked,
    now: Noised,
    logits: Tensor,
    options: ForwardProcessStage,
    others: Others,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """DGPO's (loss [b], metrics [b]); the policy that sampled is asked where a clip compares with it."""
    error = flow_match.matching_error(now.velocity, now.clean, now.noise)
    advantage = update.experience.advantage[asked.rows].to(error.device)
    logit = logits[update.batch.group[asked.rows], asked.columns].to(error)
    if others.old is None or update.algorithm.gate.name == "none":
        return dgpo(error, advantage, logit, options.strength)
    old = asked.of_other(adapter, others.old)
    error_old = flow_match.matching_error(old.velocity, now.clean, now.noise)
    low, high, apart = dgpo_clip(error, error_old, advantage, update.algorithm)
    loss, metrics = dgpo(error, advantage, logit, options.strength, held=low | high)
    return loss, {**metrics, "ratio/dev": apart, "clip/low": low.to(error), "clip/high": high.to(error)}


@torch.no_grad()
def _logits(
    adapter: Adapter,
    update: Update,
    draws: Draws,
    parts: Sequence[Tensor],
    options: ForwardProcessStage,
    others: Others,
    extra: Sequence[_Asked] = (),
) -> Tensor:
    """DGPO's logits [n_groups, K], of whole groups over all processes; a sample without advantage is only counted."""
    assert others.reference is not None
    error = torch.zeros(2, len(update.batch), draws.times.shape[1], dtype=torch.float64)
    for part in parts:
        asked = _Asked.of(update, draws, part)
        for line, found in zip(error, (asked.of_policy(adapter), asked.of_other(adapter, others.reference))):
            value = flow_match.matching_error(found.velocity, found.clean, found.noise)
            line[part[:, 0], part[:, 1]] = value.double().cpu()
    for asked in extra:
        asked.of_policy(adapter)
        asked.of_other(adapter, others.reference)
    counted = update.batch.mask.any(1)
    return dgpo_logits(
        error[0][counted],
        error[1][counted],
        update.experience.advantage[counted],
        update.batch.group[counted],
        update.batch.n_groups,
        beta=options.strength,
        reduce=update.batch.reduce,
    )


@dataclass(frozen=True)
class _Asked:
    """What one micro-batch asks of the adapter: b samples, times [b] and seeds; rows, columns [b] in the experience."""

    samples: list[Sample]
    times: Tensor
    seeds: list[int]
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, update: Update, draws: Draws, part: Tensor) -> _Asked:
        rows, columns = part[:, 0], part[:, 1]
        seeds = [draws.seeds[row][column] for row, column in part.tolist()]
        samples = [update.experience.samples[row] for row in rows]
        return cls(samples, draws.times[rows, columns], seeds, rows, columns)

    @classmethod
    def alone(cls, sample: Sample) -> _Asked:
        """A sample at some time, of no experience."""
        nowhere = torch.zeros(1, dtype=torch.int64)
        return cls([sample], torch.full((1,), 0.5), [0], nowhere, nowhere)

    def of_policy(self, adapter: Adapter) -> Noised:
        """Raises ConfigError for what does not fit together."""
        found = adapter.velocities(self.samples, self.times, self.seeds)
        shapes = {name: tuple(getattr(found, name).shape) for name in ("clean", "noise", "x", "velocity")}
        if len(set(shapes.values())) > 1 or len(found.x) != len(self.samples):
            raise ConfigError(
                f"{type(adapter).__name__}.velocities: expected four tensors of one shape for {len(self.samples)} "
                f"samples, got {shapes}"
            )
        return found

    def of_other(self, adapter: Adapter, context: Context) -> Noised:
        with torch.no_grad(), context():
            return self.of_policy(adapter)
