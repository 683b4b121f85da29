"""The filter stage: sample, score, keep by a rule, and write what is kept for later stages. Nothing is trained."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrl.config import ConfigError, FilterStage
from mmrl.data.images import stored_images
from mmrl.data.order import cyclic_indices
from mmrl.reporting.files import dumps, write_atomic
from mmrl.rewarding.run import score_groups, table
from mmrl.seeds import seed_of
from mmrl.training.collect import refuse_invalid
from mmrl.training.conversations import conversation_metrics
from mmrl.types import Group, Sample

if TYPE_CHECKING:
    from mmrl.training.trainer import Trainer


class NothingKept(RuntimeError):
    """A filter stage that ended without a single record; says what its rule saw."""


def result_path(run_dir: Path, name: str) -> Path:
    """Where the filter stage `name` writes its records."""
    return Path(run_dir) / "data" / f"{name}.jsonl"


def filter_step(trainer: Trainer, stage: FilterStage) -> dict[str, Any]:
    """Samples and scores the step's prompts and keeps by the stage's rule; returns the metrics row.

    A step's records are a file of their own, which the same step writes again after a crash; the last step joins
    them. Records are in the order of their prompts, whatever the number of processes.
    """
    began = time.monotonic()
    cursor, processes = trainer.cursor, trainer.processes
    if not trainer.pending:
        trainer.pending = [collect(trainer, stage)]
        cursor.phase = "update"
        trainer.point("rollout")
    groups = trainer.pending[0]
    set_rewards(trainer, stage, groups)
    folder, bound = trainer.run_dir / "data", trainer.config.data.max_pixels
    kept = [
        (group.index, stored_images(record, group.prompt.root, folder, bound))
        for group in groups
        for record in keep(trainer.adapter, stage, group)
    ]
    write_part(trainer, stage, kept)
    if cursor.step + 1 == stage.steps:
        join_parts(trainer, stage)
    samples = [s for g in groups for s in g.samples]
    valid = [s.reward for s in samples if s.reward is not None]
    count, everyone = processes.total(len(valid)), processes.total(len(samples))
    cursor.samples += int(everyone)
    talks = conversation_metrics(samples, processes)
    return {
        "reward/mean": processes.total(sum(valid)) / count if count else None,
        "reward/invalid": 1 - count / max(everyone, 1),
        "filter/correct": processes.total(sum(r >= stage.correct_at for r in valid)) / count if count else None,
        "filter/prompts": processes.total(len(groups)),
        "filter/kept": processes.total(len(kept)),
        **{f"env/{name}": value for name, value in talks.items()},
        "time/step": time.monotonic() - began,
    }


def collect(trainer: Trainer, stage: FilterStage) -> list[Group]:
    """This process's groups of the step, sampled and scored."""
    step, size, processes = trainer.cursor.step, len(trainer.prompts), trainer.processes
    if (stage.steps - 1) * stage.groups >= size:
        raise ConfigError(
            f"stage {stage.name!r}: {stage.steps} steps of {stage.groups} prompts are more than one pass over the "
            f"{size} prompts; take steps={-(-size // stage.groups)}"
        )
    seed = seed_of(trainer.config.seed, stage.name)
    order = cyclic_indices(0, size, size, seed)[step * stage.groups : (step + 1) * stage.groups]
    groups = [Group(trainer.prompts[p], i) for i, p in enumerate(order)]
    mine = groups[processes.rank :: processes.world]
    with trainer.sampling():
        done = trainer.adapter.rollout(mine, stage.samples, step, seed) if mine else []
    score_groups(done, trainer.rewards)
    refuse_invalid(trainer, stage, done)
    return done


# -------------------------------------------------------------------- rules


def set_rewards(trainer: Trainer, stage: FilterStage, groups: Sequence[Group]) -> None:
    """`sample.reward`: the rule's reward or the weighted sum; None where one failed or none applies."""
    names, weights = [r.name for r in trainer.rewards], [r.weight for r in trainer.config.rewards]
    if stage.reward is not None:
        names, weights = [stage.reward], [1.0]
    scores, valid, applicable = table(groups, names)
    samples = [s for g in groups for s in g.samples]
    for sample, values, fine, applies in zip(samples, scores, valid, applicable):
        known = fine.all() and applies.any()
        sample.reward = float(sum(w * v for w, v, a in zip(weights, values, applies) if a)) if known else None


def keep(adapter: Any, stage: FilterStage, group: Group) -> list[dict[str, Any]]:
    """The records of one group; samples without a reward are left out of every rule."""
    scored = [(s.reward, s) for s in group.samples if s.reward is not None]
    scored.sort(key=lambda pair: (-pair[0], pair[1].index))
    if not scored:
        return []
    return list(
        {"pairs": _pairs, "rejection": _rejection, "difficulty": _difficulty}[stage.rule](adapter, stage, scored)
    )


Scored = list[tuple[float, Sample]]  # best first; among equals by index


def _pairs(adapter: Any, stage: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """The best and the worst answer, where they differ enough."""
    (best, first), (worst, last) = scored[0], scored[-1]
    told_apart = not stage.require_correct or worst < stage.correct_at <= best
    if best - worst <= stage.margin or not told_apart:
        return
    chosen, rejected = adapter.completion(first), adapter.completion(last)
    if chosen != rejected:  # a reward that is not a function of the answer may say both of one
        scores = {"reward_chosen": best, "reward_rejected": worst}
        yield {**_record(first), "chosen": chosen, "rejected": rejected, **scores}


def _rejection(adapter: Any, stage: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """Every correct answer that is not a repetition, the best first."""
    seen: list[Any] = []
    for reward, sample in scored:
        answer = adapter.completion(sample)
        if reward < stage.correct_at or len(seen) == stage.keep:
            return
        if answer not in seen:
            seen.append(answer)
            name = f"{sample.prompt.id}/{sample.index}"
            yield {**_record(sample), "id": name, "completion": answer, "reward": reward}


def _difficulty(adapter: Any, stage: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """The prompt, where the share of correct answers is inside the range."""
    share = sum(reward >= stage.correct_at for reward, _ in scored) / len(scored)
    if stage.low <= share <= stage.high:
        yield {**_record(scored[0][1]), "pass_rate": share}


def _record(sample: Sample) -> dict[str, Any]:
    return {**sample.prompt.record, "id": sample.prompt.id, "prompt": sample.prompt.text}


# -------------------------------------------------------------------- files


def write_part(trainer: Trainer, stage: FilterStage, kept: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """This step's records of all processes, in one file in the order of their prompts."""
    processes = trainer.processes
    folder = _parts(trainer, stage)
    write_atomic(folder / f"process_{processes.rank}.jsonl", "".join(f"{dumps(entry)}\n" for entry in kept))
    processes.barrier()
    if processes.is_main:
        pieces = [folder / f"process_{rank}.jsonl" for rank in range(processes.world)]
        entries = [json.loads(line) for piece in pieces for line in piece.read_text(encoding="utf-8").splitlines()]
        entries.sort(key=lambda entry: entry[0])  # stable: the records of a group keep their order
        lines = [f"{dumps(record)}\n" for _, record in entries]
        write_atomic(folder / f"step_{trainer.cursor.step:06d}.jsonl", "".join(lines))
        for piece in pieces:
            piece.unlink()
    processes.barrier()


def join_parts(trainer: Trainer, stage: FilterStage) -> None:
    """All steps' records as the stage's result; the parts stay, as a resume may start from one of them."""
    parts = [_parts(trainer, stage) / f"step_{step:06d}.jsonl" for step in range(stage.steps)]
    text = "".join(part.read_text(encoding="utf-8") for part in parts)
    if not text:
        raise NothingKept(
            f"stage {stage.name!r} kept nothing of {stage.steps * stage.groups} prompts with rule={stage.rule}: look "
            "at filter/correct in metrics.jsonl and the stage's bounds (correct_at, margin, low, high)"
        )
    if trainer.processes.is_main:
        write_atomic(result_path(trainer.run_dir, stage.name), text)
    trainer.processes.barrier()


def _parts(trainer: Trainer, stage: FilterStage) -> Path:
    return trainer.run_dir / "data" / f"{stage.name}.parts"
