"""Sizes of a stage whose adapter has no weights (mmrl.modalities.hollow): its longest samples, traced."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from mmrl.config import DistillStage, FilterStage, SampledStage
from mmrl.core.algorithm import Algorithm
from mmrl.modalities.adapter import Adapter
from mmrl.reporting.summary import own_peak_rss_mb
from mmrl.training.assemble import LOOKED_AT
from mmrl.training.estimate.depth import held_by, peak_of_deep
from mmrl.training.estimate.distilled import turn_peaks
from mmrl.training.estimate.lines import Estimate, on_gpu
from mmrl.training.estimate.memory import MOMENTS, Sizes, shown
from mmrl.training.optim import scratch
from mmrl.training.plan_rewards import held, waiting
from mmrl.training.rollouts.replaying import refuse_own_ratios
from mmrl.training.scoring import micro_batches as scoring_parts
from mmrl.training.scoring import rows_of
from mmrl.training.stages.base import Stage
from mmrl.training.stages.distill import Distill
from mmrl.training.stages.forward_preference import ForwardPreference
from mmrl.training.stages.forward_preference import given_samples as given_pairs
from mmrl.training.stages.forward_process import ForwardProcess
from mmrl.training.stages.grpo import Grpo
from mmrl.training.stages.preference import Preference, given_samples
from mmrl.training.stages.reward_model import RewardModel
from mmrl.training.stages.sft import Sft
from mmrl.training.stages.update import given_update, gradient, micro_batches
from mmrl.types import Prompt, Sample, Slice


def is_hollow(adapter: Adapter) -> bool:
    """Whether the adapter has no weights, so that what it computes can be traced."""
    return all(isinstance(p, FakeTensor) for p in adapter.trainable_parameters().values())


def estimate(stage: Stage[Any], prompts: Sequence[Prompt]) -> Estimate:
    """Memory of a stage that was made of a run without weights. prompts: as for sizes_of."""
    base = int(own_peak_rss_mb() * 2**20)  # before anything is traced, which takes memory of its own
    wide = stage.run.adapter.precision == torch.float32
    sizes, gpu = sizes_of(stage, prompts), on_gpu(stage)
    if gpu:
        parked = [_bytes(part) for part in stage.run.adapter.parked().values()]
        sizes = dataclasses.replace(
            sizes, weights=sizes.weights - sum(parked), sampling=sizes.sampling + max(parked, default=0)
        )
        # In main memory they are part of what was there before.
        found = [*stage.run.rewards, *stage.run.eval_rewards]
        beside = sum(waiting(found).values())  # they may score while the next rollout samples
        sizes = dataclasses.replace(sizes, rewards=held(found, "cuda"), sampling=sizes.sampling + beside)
    saving = stage.run.config.checkpoint
    return Estimate(sizes, base, gpu, wide, saving.background and saving.every > 0)


def sizes_of(stage: Stage[Any], prompts: Sequence[Prompt]) -> Sizes:
    """Sizes of a stage that was made of a run without weights.

    prompts: those whose samples are traced, the longest first.
    """
    adapter = stage.run.adapter
    held = held_sizes(stage)
    if stage.needs_reference:
        adapter.prepare_reference()
        held = dataclasses.replace(held, reference=_bytes(adapter.reference_parameters().values()))
    samples, n = blank_samples(stage, prompts)
    peak = partial(peak_of_deep, list(adapter.deep_modules()))
    sampling = peak(partial(adapter.trial, samples[::n], n)) if rolls_out(stage) and samples else 0
    if isinstance(stage, Distill) and samples:
        turns = turn_peaks(stage, samples, n, peak)
        return dataclasses.replace(held, sampling=sampling, update=max(turns.values()), turns=turns)
    update = peak(partial(one_update, stage, samples)) if stage.learners else 0
    graphs = kept_graphs(stage, samples) if isinstance(stage, Grpo) else 0
    return dataclasses.replace(held, sampling=sampling, update=update, graphs=graphs)


def kept_graphs(stage: Stage[Any], samples: Sequence[Sample]) -> int:
    """Bytes that the graphs of a step's rollouts keep until its first update, where the adapter keeps them. samples: of
    one process's share of an update."""
    adapter, options = stage.run.adapter, stage.options
    told = adapter.kept_graphs(samples[0]) if samples else None
    if told is None:
        return 0
    steps, one = told
    mine = options.samples * -(-options.groups // stage.run.processes.world) * (options.ahead + 1)
    return mine * steps * held_by(list(adapter.deep_modules()), one)


def role_lines(stage: Stage[Any]) -> list[str]:
    """What each of several roles holds, on one line; [] of a stage that has the policy alone."""
    if len(stage.roles) < 2:
        return []
    told = []
    for name, role in stage.roles.items():
        parts = [f"{name} {shown(_bytes(role.weights.values()))}"]
        if role.learner:
            parts.append(f"optimizer {shown(MOMENTS * _bytes(role.learner.parameters.values()))}")
            average = role.learner.average
            parts += [f"average {shown(_bytes(average.weights.values()))}"] if average else []
        told.append(" + ".join(parts))
    if stage.needs_reference:
        teacher = "teacher" if isinstance(stage, Distill) else "reference"
        told.append(f"{teacher} {shown(_bytes(stage.run.adapter.reference_parameters().values()))}")
    return [f"roles of stage {stage.options.name}: {', '.join(told)}"]


def held_sizes(stage: Stage[Any]) -> Sizes:
    """Weights, what the optimizers and averages of the stage keep, and its roles beside the policy."""
    learners = stage.learners.values()
    trained = [_bytes(learner.parameters.values()) for learner in learners]
    return Sizes(
        weights=_bytes(stage.run.adapter.weights()),
        trained=max(trained, default=0),
        scratch=max((scratch(one.optimizer, on_gpu(stage), lambda p: _bytes([p])) for one in learners), default=0),
        moments=MOMENTS * sum(trained),
        average=sum(_bytes(learner.average.weights.values()) for learner in learners if learner.average),
        roles=sum(_bytes(role.weights.values()) for name, role in stage.roles.items() if name != "policy"),
    )


def blank_samples(stage: Stage[Any], prompts: Sequence[Prompt]) -> tuple[list[Sample], int]:
    """(samples as long as they get, prompt by prompt; how many of a prompt) of one process's share of an update."""
    options, run = stage.options, stage.run
    if not isinstance(options, SampledStage | FilterStage):
        return [], 1
    # Only what a distill stage's rewards train is split: its teacher looks at all samples in each update.
    n, updates = options.samples, 1
    if isinstance(options, SampledStage) and not isinstance(options, DistillStage):
        updates = options.updates
    groups = -(-options.groups // run.processes.world)
    found: list[Sample] = []
    for number in range(groups):
        made = run.adapter.blank(prompts[number % len(prompts)]) if prompts else None
        if made is None:
            return [], n
        found += [dataclasses.replace(made, index=index) for index in range(n)]
    return found[: n * max(1, -(-groups // updates))], n


def rolls_out(stage: Stage[Any]) -> bool:
    """Whether the stage samples."""
    return isinstance(stage.options, SampledStage | FilterStage)


# -------------------------------------------------------------------- the work of an update


def one_update(stage: Stage[Any], samples: Sequence[Sample]) -> None:
    """The fullest micro-batch of an update, where there are several beside the gradient that others have left."""
    try:
        _work(stage, samples)
    finally:
        for parameter in stage.run.adapter.trainable_parameters().values():
            parameter.grad = None


def _left(adapter: Adapter) -> None:
    """Gradients, as earlier micro-batches leave them."""
    for parameter in adapter.trainable_parameters().values():
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)


def _work(stage: Stage[Any], samples: Sequence[Sample]) -> None:
    if isinstance(stage, Grpo):
        if samples:
            _replays(stage, stage.algorithm, samples)
        if stage.options.expert and stage.run.data.records is not None:
            expert = stage.options.expert
            records = stage.run.data.records.batch(0, expert.batch, 0)
            _supervised(stage.run.adapter, records, expert.objective, expert.micro_batch)
    elif isinstance(stage, ForwardProcess):
        if samples:
            _noised(stage, samples, stage.options.draws)
    elif isinstance(stage, Sft):
        options = stage.options
        records = stage.records.batch(0, options.batch, 0)
        _supervised(stage.run.adapter, records, options.objective, options.micro_batch)
    elif isinstance(stage, Preference):
        made = [given_samples(stage.run.adapter, [pair]) for pair in stage.pairs[:LOOKED_AT]]
        _replays(stage, Algorithm(), _longest(stage, made, stage.options.batch))
    elif isinstance(stage, ForwardPreference):
        pairs = stage.pairs[: stage.options.batch]
        _noised(stage, given_pairs(stage.run.adapter, pairs), stage.options.draws)
    elif isinstance(stage, RewardModel):
        adapter = stage.run.adapter
        made = [rows_of(adapter, record, stage.options.show) for record in stage.records[:LOOKED_AT]]
        rows = _longest(stage, made, stage.options.batch)
        parts = scoring_parts(adapter, rows, stage.options.micro_batch)
        fullest = max(parts, key=lambda part: _length(adapter, [rows[r] for r in part]))
        for _ in parts[:2]:
            adapter.scores([rows[r] for r in fullest]).sum().backward()


def _longest(stage: Stage[Any], made: Sequence[Sequence[Sample]], batch: int) -> list[Sample]:
    """The samples of the records that take most, as many as one process's share of a batch."""
    order = sorted(range(len(made)), key=lambda i: -_length(stage.run.adapter, made[i]))
    count = max(1, batch // stage.run.processes.world)
    return [sample for i in order[:count] for sample in made[i]]


def _length(adapter: Adapter, samples: Sequence[Sample]) -> int:
    """What samples take of a micro-batch: their actions, and each prompt once, as equal ones are computed together."""
    prompts = {id(sample.prompt): sample.prompt for sample in samples}.values()
    asked = sum(max(adapter.cost(prompt).values(), default=0) for prompt in prompts)
    return asked + sum(len(sample.actions.mask) for sample in samples)


def _replays(stage: Stage[Any], algorithm: Algorithm, samples: Sequence[Sample]) -> None:
    adapter = stage.run.adapter
    chosen = algorithm.with_defaults(*adapter.default_clip)
    advantage = 1.0 - 2.0 * (torch.arange(len(samples)) % 2)
    update = given_update(samples, advantage, chosen)
    slices = micro_batches(adapter, update, stage.options.micro_batch)
    fullest = max(slices, key=lambda part: _cut(adapter, samples, part)) if len(slices) > 1 else slices[0]
    if len(slices) > 1:
        _left(adapter)
    on_replay = refuse_own_ratios(adapter) if isinstance(stage, Grpo) and stage.replays else None
    for part in gradient(adapter, update, [fullest], on_replay=on_replay):
        if not math.isfinite(part.loss):  # then there was no backward
            raise ValueError(f"the loss of tensors without numbers is {part.loss}")


def _noised(stage: Stage[Any], samples: Sequence[Sample], draws: int) -> None:
    """The fullest micro-batch, beside the old policy's and the reference's forward of it, which have no graph."""
    evaluations = len(samples) * draws
    some = [samples[i % len(samples)] for i in range(min(stage.options.micro_batch, evaluations))]
    if evaluations > len(some):
        _left(stage.run.adapter)
    found = stage.run.adapter.velocities(some, torch.full((len(some),), 0.5), [0] * len(some))
    with torch.no_grad():
        stage.run.adapter.velocities(some, torch.full((len(some),), 0.5), [0] * len(some))
    found.velocity.square().mean().backward()


def _cut(adapter: Adapter, samples: Sequence[Sample], part: Slice) -> int:
    """As `_length`, of a part that may have some of the actions."""
    rows = [samples[row] for row in part.rows.tolist()]
    return _length(adapter, rows) - sum(len(s.actions.mask) for s in rows) + len(rows) * len(part.columns)


def _supervised(adapter: Adapter, records: Sequence[dict[str, Any]], objective: str, micro_batch: int) -> None:
    parts = [records[i : i + micro_batch] for i in range(0, len(records), micro_batch)]
    for part in parts[:2]:
        adapter.supervised_loss(part, objective, 0).backward()


def _bytes(tensors: Any) -> int:
    """Of different tensors, ties counted once."""
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())
