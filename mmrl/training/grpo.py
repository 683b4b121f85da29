"""One reinforcement-learning step: rollout, rewards, advantages, replay, loss, updates.

The algorithm itself is mmrl.core; here are its inputs (who samples which groups) and its place in the loop.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrl.config import GrpoStage, resolve_algorithm
from mmrl.core import aggregate
from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch as CoreBatch
from mmrl.core.filter import zero_variance, zero_variance_share
from mmrl.core.step import MAXIMA, PER_ACTION, policy_loss
from mmrl.core.terms import TERMS
from mmrl.core.update import prepare_update
from mmrl.reporting.samples import write_offending, write_step
from mmrl.rewarding.run import RewardRunner, invalid_share, table
from mmrl.seeds import seed_of
from mmrl.training.data import cyclic_indices
from mmrl.training.optimizer import NonFiniteError
from mmrl.types import Group, Sample

if TYPE_CHECKING:
    from mmrl.training.processes import Processes
    from mmrl.training.trainer import Trainer

# Metrics of policy_loss, which each process gathers over its own micro-batches.
COMBINED = tuple(sorted({"actions", "policy_loss"} | PER_ACTION | MAXIMA | {f"term/{name}" for name in TERMS}))


class RewardFailure(RuntimeError):
    """Too many invalid rewards; names the reasons and where the samples were saved."""


class SelfCheckError(RuntimeError):
    """Replayed log-probabilities differ from those of the rollout."""


def grpo_step(trainer: Trainer, stage: GrpoStage) -> dict[str, Any]:
    """Everything between two prompts: returns the metrics row."""
    began = time.monotonic()
    algorithm = stage_algorithm(trainer, stage)
    if trainer.pending is None:
        trainer.pending = collect(trainer, stage, algorithm)
        trainer.cursor.phase = "update"
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
        write_step(trainer.run_dir, f"step_{step:06d}", trainer.pending[: trainer.config.report.groups])
    return row


def stage_algorithm(trainer: Trainer, stage: GrpoStage) -> Algorithm:
    """The stage's algorithm with the clip range of the adapter's kind of action where none is given."""
    low, high = getattr(trainer.adapter, "default_clip", (0.2, 0.2))
    return resolve_algorithm(stage.algorithm).with_defaults(low, high)


# -------------------------------------------------------------------- rollout and reward


def collect(trainer: Trainer, stage: GrpoStage, algorithm: Algorithm) -> list[Group]:
    """This process's groups of the step, sampled and scored; rewards of one chunk run beside the next rollout."""
    config, processes, step = trainer.config, trainer.processes, trainer.cursor.step
    order = cyclic_indices(step * stage.groups, stage.groups, len(trainer.prompts), config.seed)
    groups = [Group(trainer.prompts[p], i) for i, p in enumerate(order)]
    mine = groups[processes.rank :: processes.world]
    chunk = stage.rollout_chunk or max(1, len(mine))
    seed = seed_of(config.seed, stage.name)
    done: list[Group] = []
    rollout_s, began = 0.0, time.monotonic()
    with RewardRunner(trainer.rewards) as runner:
        for start in range(0, len(mine), chunk):
            clock = time.monotonic()
            runner.submit(trainer.adapter.rollout(mine[start : start + chunk], stage.samples, step, seed))
            rollout_s += time.monotonic() - clock
        while runner.pending:
            done += runner.gather()
    if algorithm.kl_coef > 0 and algorithm.kl_place == "reward":
        score_kl(trainer, stage, done)
    trainer.cursor.sums |= {"time/rollout": rollout_s, "time/reward": time.monotonic() - began - rollout_s}
    refuse_invalid(trainer, stage, done)
    return done


@torch.no_grad()
def score_kl(trainer: Trainer, stage: GrpoStage, groups: Sequence[Group]) -> None:
    """Put each sample's k1 estimate of the KL to the reference, summed over actions, into scores["kl"]."""
    from mmrl.types import Score

    samples = [s for g in groups for s in g.samples]
    sums = torch.zeros(len(samples), dtype=torch.float64)
    for part in trainer.adapter.slices(samples, stage.micro_batch):
        replay = trainer.adapter.logprobs([samples[r] for r in part.rows], part.columns, reference=True)
        sums[part.rows] += (replay.logp - replay.logp_reference).sum(1).double().cpu()
    for sample, value in zip(samples, sums.tolist()):
        sample.scores["kl"] = Score.of(value)


def refuse_invalid(trainer: Trainer, stage: GrpoStage, groups: Sequence[Group]) -> None:
    """Stop where more samples than `max_invalid` have an invalid score: the samples saved, the run resumable."""
    processes = trainer.processes
    count = sum(len(g.samples) for g in groups)
    share = processes.total(invalid_share(groups) * count) / max(processes.total(count), 1)
    if share <= stage.max_invalid:
        return
    reasons = sorted({s.reason for g in groups for x in g.samples for s in x.scores.values() if s.status == "invalid"})
    where = trainer.run_dir / "samples"
    for rank in range(processes.world):  # one after the other: they number their folders
        if rank == processes.rank and reasons:
            where = write_offending(trainer.run_dir, groups, "; ".join(reasons[:5]))
        processes.barrier()
    trainer.save()
    raise RewardFailure(
        f"{share:.0%} of the samples of step {trainer.cursor.total_steps + 1} have an invalid reward "
        f"(max_invalid is {stage.max_invalid:.0%}): {'; '.join(reasons[:3])}. The samples are in {where}; mend the "
        "reward and go on with --resume"
    )


# -------------------------------------------------------------------- the batch as tensors


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

    @classmethod
    def of(cls, trainer: Trainer, stage: GrpoStage, algorithm: Algorithm) -> Batch:
        """Advantages over the whole step (all processes); also written back into the samples, for the report."""
        assert trainer.pending is not None
        groups = trainer.pending
        samples = [s for g in groups for s in g.samples]
        group = torch.tensor([g.index for g in groups for _ in g.samples], dtype=torch.int64)
        names = [r.name for r in trainer.rewards]
        weights = [r.weight for r in trainer.config.rewards]
        if algorithm.kl_coef > 0 and algorithm.kl_place == "reward":
            names, weights = [*names, "kl"], [*weights, -algorithm.kl_coef]
        scores, valid, applicable = (torch.from_numpy(a) for a in table(groups, names))
        if stage.shuffle_rewards:
            seed = seed_of(trainer.config.seed, "shuffle", trainer.cursor.step)
            order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
            scores, valid, applicable = scores[order], valid[order], applicable[order]
        logp_old, mask = padded(samples)
        known = valid.bool() & applicable.bool()
        core = CoreBatch(
            group,
            stage.groups,
            mask,
            trainer.processes.reduce,
            scores={name: torch.where(known[:, f], scores[:, f].double(), torch.nan) for f, name in enumerate(names)},
            logp_old=logp_old,
            step=trainer.cursor.step,
        )
        advantage, reward, sample_valid = estimate(
            scores.double(),
            valid.bool(),
            torch.tensor(weights, dtype=torch.float64),
            core,
            algorithm,
            applicable=applicable.bool(),
        )
        largest = per_sample(advantage, mask)
        for row, sample in enumerate(samples):
            sample.reward = float(reward[row]) if reward[row].isfinite() else None
            sample.advantage = float(largest[row])
        # With a KL in the loss, or another term, samples without advantage still have a gradient.
        in_loss = algorithm.kl_coef > 0 and algorithm.kl_place == "loss"
        skip = algorithm.skip_zero_variance and not (in_loss or algorithm.terms)
        counted = (
            zero_variance(largest, sample_valid, group, stage.groups, trainer.processes.reduce)
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
        )


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


# -------------------------------------------------------------------- update


def update(trainer: Trainer, stage: GrpoStage, algorithm: Algorithm, batch: Batch, number: int, updates: int) -> None:
    """One optimizer step over an even share of the groups, micro-batch by micro-batch.

    Aggregation weights are made for the whole update over all processes first, so that neither the cut into
    micro-batches nor the number of processes changes the gradient.
    """
    cursor, processes, adapter = trainer.cursor, trainer.processes, trainer.adapter
    epoch, part = divmod(number, stage.updates)
    seed = seed_of(trainer.config.seed, stage.name, cursor.step, epoch)
    order = torch.randperm(stage.groups, generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(stage.groups, dtype=torch.bool)
    chosen[order[part * (stage.groups // stage.updates) : (part + 1) * (stage.groups // stage.updates)]] = True
    inside = chosen[batch.group]
    whole = dataclasses.replace(batch.core, mask=batch.mask & inside[:, None])
    whole, action_weight = prepare_update(whole, batch.advantage, algorithm)
    weights = aggregate.weights(
        algorithm.aggregate,
        whole.mask,
        batch.group,
        stage.groups,
        processes.reduce,
        constant_length=algorithm.constant_length,
    )
    rows = torch.nonzero(inside & batch.keep).flatten()
    samples = [batch.samples[r] for r in rows]
    reference = (algorithm.kl_coef > 0 and algorithm.kl_place == "loss") or "logp_reference" in algorithm.needs
    first = cursor.total_steps == 0 and number == 0
    slices = list(adapter.slices(samples, stage.micro_batch))
    for index, part_ in enumerate(slices):
        if index < cursor.micro:
            continue
        some, columns = [samples[r] for r in part_.rows], part_.columns
        chosen_rows = rows[part_.rows]
        where = (chosen_rows[:, None], columns[None, :])
        replay = adapter.logprobs(some, columns, reference=reference)
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
            batch=whole.at(chosen_rows, columns),
            action_weight=None if action_weight is None else action_weight[where].to(device),
        )
        if not torch.isfinite(loss):
            refuse_non_finite(trainer, float(loss.detach()), some)
        if loss.requires_grad:
            loss.backward()
        accumulate(cursor.sums, found)
        cursor.micro = index + 1
        trainer.point("micro")
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
    where = write_offending(trainer.run_dir, groups, f"loss {loss}")
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
    row["reward/invalid"] = processes.total((~batch.valid).sum()) / max(everyone, 1)
    silent = zero_variance_share(
        per_sample(batch.advantage, batch.core.mask), batch.valid, batch.group, stage.groups, processes.reduce
    )
    row["group/zero_variance"] = float(silent)
    total = combined(processes, sums)
    actions = max(total.get("actions", 0.0), 1.0)
    row["loss"] = total.get("policy_loss", 0.0)
    row |= {k: total[k] / actions for k in ("kl", "entropy") if k in total}
    row |= {k: value for k, value in total.items() if k.startswith("term/")}
    row |= {k: total.get(k, 0.0) / actions for k in ("clip/low", "clip/high")}
    row["ratio/max_dev"] = total.get("ratio/max_dev", 0.0)
    row["grad_norm"] = sums.get("grad_norm", 0.0)
    row["lr"] = sums.get("lr", 0.0)
    row |= {k: v for k, v in sums.items() if k.startswith("time/")}
    trainer.cursor.samples += int(everyone)
    trainer.cursor.actions += int(processes.total(batch.mask.sum()))
    return row
