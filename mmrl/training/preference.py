"""One preference step: pairs of given answers, scored under policy and reference, and an exact gradient."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrl.config import ConfigError, PreferenceStage
from mmrl.core import pair_losses as objectives
from mmrl.data.order import cyclic_indices
from mmrl.data.records import load_prompts
from mmrl.seeds import seed_of
from mmrl.training.optimizer import NonFiniteError
from mmrl.types import Prompt, Sample, Slice

if TYPE_CHECKING:
    from mmrl.training.trainer import Trainer


def load_pairs(source: str | Path, on_bad: str, **reading: Any) -> list[Prompt]:
    """Prompts of a .jsonl file whose records also have `chosen` and `rejected`, two different answers.

    reading: keywords of `load_prompts`. An answer is a string, or a list of whatever the adapter's `given` takes.
    Raises ConfigError, or warns and skips, for a bad record as `on_bad` says.
    """
    good = []
    for prompt in load_prompts(str(source), {}, on_bad, columns=("chosen", "rejected"), **reading):
        problem = _problem(prompt.record["chosen"], prompt.record["rejected"])
        if problem and on_bad == "stop":
            raise ConfigError(f"{source}: record {prompt.id!r}: {problem}; mend it or set data.on_bad_record: skip")
        if problem:
            warnings.warn(f"{source}: record {prompt.id!r}: {problem}; skipped", stacklevel=2)
        else:
            good.append(prompt)
    if not good:
        raise ConfigError(f"{source} holds no usable pair")
    return good


def _problem(chosen: Any, rejected: Any) -> str:
    if not isinstance(chosen, str | list) or not isinstance(rejected, str | list):
        return "`chosen` and `rejected` must be texts"  # empty ones are answers too: the end of the text, at once
    return "`chosen` and `rejected` are the same answer" if chosen == rejected else ""


def preference_step(trainer: Trainer, stage: PreferenceStage) -> dict[str, Any]:
    """One optimizer step over `stage.batch` pairs; returns the metrics row.

    The loss depends on whole answers' log-probabilities only. So these are computed without gradient first, the
    loss is differentiated by them, and the second pass, micro-batch by micro-batch, is a weighted sum of
    log-probabilities: the gradient is the same however answers are cut, and the two answers of a pair need not be
    in memory together.
    """
    began = time.monotonic()
    cursor, processes, adapter = trainer.cursor, trainer.processes, trainer.adapter
    seed = seed_of(trainer.config.seed, stage.name)
    order = cyclic_indices(cursor.step * stage.batch, stage.batch, len(trainer.pairs), seed)
    pairs = [trainer.pairs[i] for i in order[processes.rank :: processes.world]]
    samples = given_samples(adapter, pairs)
    masks = _masks(samples)
    slices = list(adapter.slices(samples, stage.micro_batch)) if samples else []
    logp, reference = score(adapter, samples, masks, slices)
    coefficients, row, memory = differentiate(trainer, stage, logp, reference, masks.sum(1))
    if not math.isfinite(row["loss"]):
        ids = ", ".join(p.id for p in pairs[:8])
        raise NonFiniteError(
            f"preference loss is {row['loss']} at step {cursor.step + 1}, pairs {ids}; lower optim.lr or look at these "
            "pairs"
        )
    cursor.phase = "update"
    for number, part in enumerate(slices):
        if number < cursor.micro:
            continue
        replay = adapter.logprobs([samples[r] for r in part.rows], part.columns)
        weight = coefficients[part.rows][:, None].to(replay.logp)
        loss = torch.where(_cut(masks, part).to(replay.logp.device), replay.logp * weight, 0.0).sum()
        if loss.requires_grad:
            loss.backward()
        cursor.micro = number + 1
        trainer.point("micro")
    row["grad_norm"] = trainer.optimizer_step(stage, stage.steps)
    trainer.memory = memory
    cursor.samples += 2 * stage.batch
    cursor.actions += int(processes.total(float(masks.sum())))
    return {**row, "lr": cursor.sums["lr"], "time/step": time.monotonic() - began}


def given_samples(adapter: Any, pairs: Sequence[Prompt]) -> list[Sample]:
    """The pairs as samples with trajectories, [chosen, rejected, chosen, ...]; from `adapter.given`."""
    samples: list[Sample] = []
    for pair in pairs:
        made = adapter.given(pair, [pair.record["chosen"], pair.record["rejected"]])
        if len(made) != 2 or any(s.trajectory is None or not s.trajectory.mask.any() for s in made):
            raise ValueError(
                f"{type(adapter).__name__}.given, pair {pair.id!r}: expected two samples, each with a trajectory that "
                "has a trained action"
            )
        samples += made
    return samples


@torch.no_grad()
def score(adapter: Any, samples: Sequence[Sample], masks: Tensor, slices: Sequence[Slice]) -> tuple[Tensor, Tensor]:
    """Sums over trained actions of log-probs under the policy and under the reference, each [S] float64 on the CPU."""
    sums = torch.zeros(2, len(samples), dtype=torch.float64)
    for part in slices:
        replay = adapter.logprobs([samples[r] for r in part.rows], part.columns, reference=True)
        if replay.logp_reference is None:
            raise ConfigError(
                f"{type(adapter).__name__}.logprobs gives no logp_reference: a preference stage compares with the "
                "reference's log-probabilities"
            )
        inside = _cut(masks, part)
        for line, values in zip(sums, (replay.logp, replay.logp_reference)):
            line.index_add_(0, part.rows, torch.where(inside, values.cpu().double(), 0.0).sum(1))
    return sums[0], sums[1]


def differentiate(
    trainer: Trainer, stage: PreferenceStage, logp: Tensor, reference: Tensor, length: Tensor
) -> tuple[Tensor, dict[str, Any], dict[str, float]]:
    """(gradient of the mean loss by each answer's log-prob [S], metrics over all processes, memory after the step)."""
    processes = trainer.processes
    leaf = logp.clone().requires_grad_(True)
    answers = (leaf[0::2], leaf[1::2], reference[0::2], reference[1::2])
    memory: dict[str, float] = {}
    if stage.objective != "dpo":
        rewards = objectives.implicit_reward(logp, reference, stage.beta)
        total, n = processes.total(float(rewards.sum())), processes.total(len(rewards))
        delta, count = objectives.shifted(trainer.memory.get("delta", 0.0), trainer.memory.get("count", 0.0), total, n)
        memory = {"delta": delta, "count": count}
    loss, metrics = _objective(stage, answers, length[0::2], memory.get("delta", 0.0))
    share = 1 / stage.batch
    (loss.sum() * share).backward()
    assert leaf.grad is not None
    row: dict[str, Any] = {"loss": processes.total(float(loss.detach().sum())) * share}
    row |= {f"preference/{k}": processes.total(float(v.sum())) * share for k, v in metrics.items()}
    if memory:
        row["preference/delta"] = memory["delta"]
    return leaf.grad, row, memory


def _objective(
    stage: PreferenceStage, answers: tuple[Tensor, Tensor, Tensor, Tensor], length: Tensor, delta: float
) -> objectives.Outcome:
    if stage.objective == "mpo":
        return objectives.mpo(
            *answers,
            length_chosen=length,
            delta=delta,
            beta=stage.beta,
            label_smoothing=stage.label_smoothing,
            weights=stage.weights,
        )
    if stage.objective == "bco":
        return objectives.bco(*answers, delta=delta, beta=stage.beta)
    return objectives.dpo(*answers, beta=stage.beta, label_smoothing=stage.label_smoothing, form=stage.form)


def _masks(samples: Sequence[Sample]) -> Tensor:
    """[S, T] bool: the trained actions."""
    masks = [s.trajectory.mask.bool() for s in samples if s.trajectory is not None]
    if not masks:
        return torch.zeros(0, 0, dtype=torch.bool)
    return torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)


def _cut(masks: Tensor, part: Slice) -> Tensor:
    return masks[part.rows[:, None], part.columns[None, :]]
