"""One reinforcement-learning step: rollout, rewards, advantages, replay, loss, updates.

The algorithm itself is mmrl.core; here are its inputs (who samples which groups) and its place in the loop.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrl.config import ConfigError, GrpoStage, resolve_algorithm
from mmrl.core import aggregate
from mmrl.core.algorithm import Algorithm
from mmrl.core.filter import zero_variance_share
from mmrl.core.resolving import needs, needs_reference
from mmrl.core.step import MAXIMA, PER_ACTION, policy_loss
from mmrl.core.terms import NEED_ENTROPY, TERMS
from mmrl.core.update import prepare_update
from mmrl.reporting.samples import write_offending, write_step
from mmrl.seeds import seed_of
from mmrl.training import expert
from mmrl.training.batch import COMPUTED, Batch, computed, per_sample
from mmrl.training.collect import fill
from mmrl.training.conversations import conversation_metrics
from mmrl.training.optimizer import NonFiniteError
from mmrl.training.tree import places
from mmrl.types import Group, Sample

if TYPE_CHECKING:
    from mmrl.training.processes import Processes
    from mmrl.training.trainer import Trainer

# Metrics of policy_loss, which each process gathers over its own micro-batches.
COMBINED = tuple(sorted({"actions", "policy_loss"} | PER_ACTION | MAXIMA | {f"term/{name}" for name in TERMS}))


class SelfCheckError(RuntimeError):
    """Replayed log-probabilities differ from those of the rollout."""


def grpo_step(trainer: Trainer, stage: GrpoStage) -> dict[str, Any]:
    """Everything between two prompts: returns the metrics row."""
    began = time.monotonic()
    algorithm = stage_algorithm(trainer, stage)
    sampled = fill(trainer, stage, algorithm)
    trainer.cursor.phase = "update"
    if sampled:
        trainer.point("rollout")
    rolled = time.monotonic()
    batch = Batch.of(trainer, stage, algorithm)
    updates = stage.updates * stage.epochs
    while trainer.cursor.update < updates:
        update(trainer, stage, algorithm, batch, trainer.cursor.update, updates)
        trainer.cursor.update += 1
        trainer.cursor.micro = 0
        trainer.point("update")
    row = metrics(trainer, stage, batch)
    row |= {"time/update": time.monotonic() - rolled, "time/step": time.monotonic() - began}
    store = trainer.config.report.samples_every
    step = trainer.cursor.total_steps + 1
    if trainer.processes.is_main and store and (step % store == 0 or step == 1):
        kept = trainer.pending[0][: trainer.config.report.groups]
        write_step(trainer.run_dir, f"step_{step:06d}", kept, render=trainer.render)
    return row


def stage_algorithm(trainer: Trainer, stage: GrpoStage) -> Algorithm:
    """The stage's algorithm with the clip range of the adapter's kind of action where none is given.

    Raises ConfigError where it compares with a reference and the adapter has none.
    """
    adapter = trainer.adapter
    low, high = getattr(adapter, "default_clip", (0.2, 0.2))
    algorithm = resolve_algorithm(stage.algorithm).with_defaults(low, high)
    if needs_reference(algorithm) and "reference" not in inspect.signature(adapter.logprobs).parameters:
        raise ConfigError(
            f"stage {stage.name!r}: the algorithm (kl_coef={algorithm.kl_coef:g}) compares with a reference, and "
            f"{type(adapter).__name__}.logprobs takes no `reference`; set kl_coef=0, or give the adapter one"
        )
    return algorithm


# -------------------------------------------------------------------- update


def update(trainer: Trainer, stage: GrpoStage, algorithm: Algorithm, batch: Batch, number: int, updates: int) -> None:
    """One optimizer step over an even share of the groups, micro-batch by micro-batch.

    Aggregation weights are made for the whole update over all processes first, so that neither the cut into
    micro-batches nor the number of processes changes the gradient.
    """
    cursor, processes, adapter = trainer.cursor, trainer.processes, trainer.adapter
    epoch, part = divmod(number, stage.updates)
    seed = seed_of(trainer.config.seed, stage.name, cursor.step, epoch)
    count = places(stage)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[order[part * (count // stage.updates) : (part + 1) * (count // stage.updates)]] = True
    inside = chosen[batch.group]
    whole = dataclasses.replace(batch.core, mask=batch.mask & inside[:, None])
    asked = needs(algorithm) & COMPUTED
    made = computed(trainer, stage, batch.samples, batch.logp_old, asked, fresh=number == 0 and batch.fresh)
    whole = whole.having(features=made)
    whole, action_weight, found = prepare_update(whole, batch.advantage, algorithm)
    cursor.sums |= found
    weights = aggregate.weights(
        algorithm.aggregate,
        whole.mask,
        batch.group,
        count,
        processes.reduce,
        constant_length=algorithm.constant_length,
    )
    rows = torch.nonzero(inside & batch.keep).flatten()
    samples = [batch.samples[r] for r in rows]
    reference = needs_reference(algorithm) and algorithm.kl_place == "loss"
    asks = {"entropy": True} if {hook.name for hook in algorithm.terms} & NEED_ENTROPY else {}
    first = cursor.total_steps == 0 and number == 0 and batch.fresh
    mu = expert.share(stage, cursor.step)
    slices = list(adapter.slices(samples, stage.micro_batch))
    for index, part_ in enumerate(slices):
        if index < cursor.micro:
            continue
        some, columns = [samples[r] for r in part_.rows], part_.columns
        chosen_rows = rows[part_.rows]
        where = (chosen_rows[:, None], columns[None, :])
        replay = adapter.logprobs(some, columns, reference=reference, **asks)
        device = replay.logp.device
        if first and index == 0:
            self_check(trainer, replay.logp.detach().cpu(), batch.logp_old[where], batch.mask[where], algorithm)
        loss, found = policy_loss(
            replay,
            batch.logp_old[where].to(device),
            whole.mask[where].to(device),
            batch.advantage[chosen_rows if batch.advantage.ndim == 1 else where].to(device),
            weights[where].to(device),
            algorithm,
            batch=whole.at(chosen_rows, columns).to(device),
            action_weight=None if action_weight is None else action_weight[where].to(device),
        )
        if not torch.isfinite(loss):
            refuse_non_finite(trainer, float(loss.detach()), some)
        if loss.requires_grad:
            ((1 - mu) * loss).backward()
        accumulate(cursor.sums, found)
        cursor.micro = index + 1
        trainer.point("micro")
    if mu > 0:
        expert.add_gradient(trainer, stage, mu, len(slices))
    norm = trainer.optimizer_step(stage, stage.steps * updates)
    cursor.sums["grad_norm"] = max(norm, cursor.sums.get("grad_norm", 0.0))


def accumulate(sums: dict[str, float], found: dict[str, Any]) -> None:
    """Add a micro-batch's metrics: those in MAXIMA by their maximum, the rest as sums."""
    for name, value in found.items():
        value = float(value)
        sums[name] = max(sums.get(name, 0.0), value) if name in MAXIMA else sums.get(name, 0.0) + value


def combined(processes: Processes, sums: dict[str, float]) -> dict[str, float]:
    """The micro-batches' metrics over all processes; one that replayed nothing has none, but asks for the same."""
    present = (name for name in COMBINED if processes.any(name in sums))
    return {name: processes.total(sums.get(name, 0.0), "max" if name in MAXIMA else "sum") for name in present}


def self_check(trainer: Trainer, logp: Tensor, logp_old: Tensor, mask: Tensor, algorithm: Algorithm) -> None:
    """Before anything is trained: the replayed log-probabilities are those of the rollout."""
    gap = float(((logp - logp_old).abs() * mask).max())
    bound = min(algorithm.clip_low, algorithm.clip_high)
    if gap > bound:
        raise SelfCheckError(
            f"replayed log-probabilities differ from the rollout's by {gap:.2e}, more than the clip range {bound:.0e}: "
            "ratios would be clipped before anything was learned. Rollout and replay must run the same forward: "
            "same guidance, eval mode, dtype and stored latents (run `mmrl check` on the modality)"
        )
    if gap > bound / 10 and trainer.processes.is_main:
        print(f"warning: replayed log-probabilities are off by {gap:.1e} (clip range {bound:.0e})", flush=True)


def refuse_non_finite(trainer: Trainer, loss: float, samples: Sequence[Sample]) -> None:
    groups = [Group(s.prompt, i, [s]) for i, s in enumerate(samples)]
    where = write_offending(trainer.run_dir, groups, f"loss {loss}", trainer.render)
    if trainer.processes.world == 1 and trainer.checkpoints.latest is None:
        trainer.save()  # an older checkpoint is worth more than this one
    raise NonFiniteError(
        f"loss is {loss} at step {trainer.cursor.total_steps + 1}: stopped before it reached the weights. The samples "
        f"behind it are in {where}; lower optim.lr, or clip tighter, and go on with --resume"
    )


# -------------------------------------------------------------------- metrics


def metrics(trainer: Trainer, stage: GrpoStage, batch: Batch) -> dict[str, Any]:
    """The step's row of metrics.jsonl, over all processes."""
    processes, sums = trainer.processes, trainer.cursor.sums
    n = processes.total(batch.valid.sum())
    mean = processes.total(batch.reward[batch.valid].sum()) / max(n, 1)
    square = processes.total(((batch.reward[batch.valid] - mean) ** 2).sum())
    row: dict[str, Any] = {"reward/mean": mean, "reward/std": (square / max(n, 1)) ** 0.5}
    for f, reward in enumerate(trainer.rewards):
        count = processes.total(batch.score_valid[:, f].sum())
        total = processes.total(batch.scores[batch.score_valid[:, f], f].sum())
        row[f"reward/{reward.name}"] = total / count if count else None
    everyone = processes.total(len(batch.samples))
    if stage.staleness:
        age = processes.total(sum(trainer.cursor.step - s.version for s in batch.samples))
        row["rollout/age"] = age / max(everyone, 1)
    row["reward/invalid"] = processes.total((~batch.valid).sum()) / max(everyone, 1)
    row |= {f"env/{name}": value for name, value in conversation_metrics(batch.samples, processes).items()}
    silent = zero_variance_share(
        per_sample(batch.advantage, batch.core.mask), batch.valid, batch.group, places(stage), processes.reduce
    )
    row["group/zero_variance"] = float(silent)
    total = combined(processes, sums)
    actions = max(total.get("actions", 0.0), 1.0)
    row["loss"] = total.get("policy_loss", 0.0)
    if stage.expert:  # summed over the step's updates
        row["expert/loss"] = processes.total(sums.get("expert/loss", 0.0)) / (stage.updates * stage.epochs)
    row |= {k: total[k] / actions for k in ("kl", "entropy") if k in total}
    row |= {k: value for k, value in total.items() if k.startswith("term/")}
    row |= {k: total.get(k, 0.0) / actions for k in ("clip/low", "clip/high")}
    row["ratio/max_dev"] = total.get("ratio/max_dev", 0.0)
    row["grad_norm"] = sums.get("grad_norm", 0.0)
    row["lr"] = sums.get("lr", 0.0)
    row |= {k: v for k, v in sums.items() if k.startswith(("time/", "rollout/"))}
    trainer.cursor.samples += int(everyone)
    trainer.cursor.actions += int(processes.total(batch.mask.sum()))
    return row
