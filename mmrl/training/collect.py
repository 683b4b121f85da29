"""Collecting a step: which prompts, their samples and scores, refills and hints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmrl.config import GrpoStage, HintsConfig
from mmrl.core.algorithm import Algorithm
from mmrl.reporting.samples import write_offending
from mmrl.rewarding.run import RewardRunner, invalid_share
from mmrl.seeds import seed_of
from mmrl.training.curriculum import Curriculum, difficulties, refill
from mmrl.training.hints import climb, plain
from mmrl.training.tree import branched
from mmrl.types import Group, Score

if TYPE_CHECKING:
    from mmrl.training.trainer import Trainer


class RewardFailure(RuntimeError):
    """Too many invalid rewards; names the reasons and where the samples were saved."""


def fill(trainer: Trainer, stage: GrpoStage, algorithm: Algorithm) -> bool:
    """Sample until the step's rollout, and those of the next `stage.staleness` steps, wait in `trainer.pending`.

    The first step fills the queue with the weights that it starts from, every later one adds the rollout for
    `staleness` steps later, and nothing is sampled that no step would use. Returns whether anything was sampled.
    """
    cursor = trainer.cursor
    wanted = min(stage.staleness + 1, stage.steps - cursor.step)
    missing = range(cursor.step + len(trainer.pending), cursor.step + wanted)
    if not missing:
        return False
    began = time.monotonic()
    with trainer.sampling():
        cursor.sums["time/rollout"] = time.monotonic() - began
        for step in missing:
            trainer.pending.append(collect(trainer, stage, algorithm, step))
    return True


def collect(trainer: Trainer, stage: GrpoStage, algorithm: Algorithm, step: int) -> list[Group]:
    """This process's groups for a step, sampled with the weights as they are, and scored.

    Groups without signal are replaced by new prompts as `stage.refill` says (dynamic sampling, DAPO), groups that are
    all wrong by their hinted prompt as `stage.hints` says (GHPO). What comes next depends on the seed and on the
    results, not on the number of processes.
    """
    processes, sums = trainer.processes, trainer.cursor.sums
    curriculum = curriculum_of(trainer, stage)
    chosen = curriculum.order(step, stage.groups, trainer.config.seed)
    wanted = [Group(trainer.prompts[p], i) for i, p in enumerate(chosen)]
    began = time.monotonic()
    rolled = sums.setdefault("time/rollout", 0.0)
    if stage.tree:
        groups = branched(trainer, stage, wanted[processes.rank :: processes.world], step)
        sums["time/rollout"] = rolled + time.monotonic() - began
        return groups
    groups = sampled(trainer, stage, wanted[processes.rank :: processes.world], step)
    refuse_invalid(trainer, stage, groups)
    _record(trainer, stage, curriculum, groups)
    for rounds in range(1, stage.refill):
        silent = _silent(trainer, stage, groups)
        if not refill(stage.groups, stage.groups - len(silent), rounds, stage.refill):
            break
        fresh = curriculum.order(step, len(silent), trainer.config.seed)
        again = {index: trainer.prompts[p] for index, p in zip(silent, fresh)}
        mine = [Group(again[g.index], g.index) for g in groups if g.index in again]
        made = sampled(trainer, stage, mine, step)
        refuse_invalid(trainer, stage, made)
        _record(trainer, stage, curriculum, made)
        groups = _replaced(groups, made)
    if stage.hints:
        while processes.any(bool(again := _hinted(trainer, stage.hints, groups))):
            groups = _replaced(groups, sampled(trainer, stage, again, step))
        refuse_invalid(trainer, stage, groups)
    if algorithm.kl_coef > 0 and algorithm.kl_place == "reward":
        score_kl(trainer, stage, groups)
    trainer.memory["curriculum"] = curriculum.state()
    rolled = sums["time/rollout"] - rolled
    sums["time/reward"] = sums.get("time/reward", 0.0) + time.monotonic() - began - rolled
    return groups


def curriculum_of(trainer: Trainer, stage: GrpoStage) -> Curriculum:
    """The stage's order of prompts, as far as it has come."""
    options = stage.curriculum
    ids = [prompt.id for prompt in trainer.prompts]
    curriculum = Curriculum(
        ids,
        difficulties(trainer.prompts, options.column) if options.column else None,
        order=options.order,
        advance_at=options.advance_at,
        window=options.window,
        advance_every=options.advance_every,
        retire_at=options.retire_at,
    )
    if "curriculum" in trainer.memory:
        curriculum.load(trainer.memory["curriculum"])
    return curriculum


def sampled(trainer: Trainer, stage: GrpoStage, groups: Sequence[Group], step: int) -> list[Group]:
    """The groups filled and scored; rewards of one chunk run beside the rollout of the next.

    step: which step the rollout is for; with the seed and the prompt's id it decides the noise.
    """
    seed = seed_of(trainer.config.seed, stage.name)
    chunk = stage.rollout_chunk or max(1, len(groups))
    done: list[Group] = []
    with RewardRunner(trainer.rewards) as runner:
        for start in range(0, len(groups), chunk):
            clock = time.monotonic()
            some = groups[start : start + chunk]
            runner.submit(trainer.adapter.rollout(some, stage.samples, step, seed))
            trainer.cursor.sums["time/rollout"] += time.monotonic() - clock
        while runner.pending:
            done += runner.gather()
    for sample in (s for group in done for s in group.samples):
        sample.version = trainer.cursor.step
    return done


def _replaced(groups: Sequence[Group], new: Sequence[Group]) -> list[Group]:
    by_index = {group.index: group for group in new}
    return [by_index.get(group.index, group) for group in groups]


def _hinted(trainer: Trainer, hints: HintsConfig, groups: Sequence[Group]) -> list[Group]:
    """The next rung of the ladder, without prompts that a hint makes too long."""
    again = climb(groups, hints.reward, hints.threshold, hints.fractions, hints.sentence)
    usable = getattr(trainer.adapter, "usable", lambda prompt: None)
    return [group for group in again if usable(group.prompt) is None]


def _totals(trainer: Trainer, group: Group) -> list[float]:
    """Weighted sum of the rewards of every sample that has one."""
    names = [(r.name, c.weight) for r, c in zip(trainer.rewards, trainer.config.rewards)]
    scored = [s for s in group.samples if all(x.status != "invalid" for x in s.scores.values())]
    return [sum(w * s.scores[n].value for n, w in names if s.scores[n].ok) for s in scored]


def _record(trainer: Trainer, stage: GrpoStage, curriculum: Curriculum, groups: Sequence[Group]) -> None:
    """Tell the curriculum the pass rates of the groups of all processes, in the order of their indices."""
    rates, known = torch.zeros(stage.groups), torch.zeros(stage.groups)
    places = torch.full((stage.groups,), -1.0, dtype=torch.float64)
    index = curriculum.index
    for group in groups:
        totals = _totals(trainer, group)
        if totals:
            rates[group.index] = sum(v >= stage.curriculum.correct_at for v in totals) / len(totals)
            known[group.index] = 1
            places[group.index] = index[plain(group.prompt).id]
    reduce = trainer.processes.reduce
    rates, known, places = reduce(rates, "sum"), reduce(known, "sum"), reduce(places, "max")
    names = [prompt.id for prompt in trainer.prompts]
    for rate, count, place in zip(rates.tolist(), known.tolist(), places.tolist()):
        if count:
            curriculum.record(names[int(place)], rate)


def _silent(trainer: Trainer, stage: GrpoStage, groups: Sequence[Group]) -> list[int]:
    """Indices, over all processes, of the groups whose samples all have the same reward."""
    flags: Tensor = torch.zeros(stage.groups)
    for group in groups:
        totals = _totals(trainer, group)
        flags[group.index] = float(not totals or max(totals) == min(totals))
    return torch.nonzero(trainer.processes.reduce(flags, "max")).flatten().tolist()


@torch.no_grad()
def score_kl(trainer: Trainer, stage: GrpoStage, groups: Sequence[Group]) -> None:
    """Put each sample's k1 estimate of the KL to the reference, summed over actions, into scores["kl"]."""
    samples = [s for g in groups for s in g.samples]
    sums = torch.zeros(len(samples), dtype=torch.float64)
    for part in trainer.adapter.slices(samples, stage.micro_batch):
        replay = trainer.adapter.logprobs([samples[r] for r in part.rows], part.columns, reference=True)
        if replay.logp_reference is None:
            name = type(trainer.adapter).__name__
            raise ValueError(
                f"kl_place='reward' needs `logp_reference`, which {name}.logprobs did not return though asked with "
                "reference=True; set kl_coef=0, or give the adapter a reference"
            )
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
            where = write_offending(trainer.run_dir, groups, "; ".join(reasons[:5]), trainer.render)
        processes.barrier()
    trainer.save()
    raise RewardFailure(
        f"{share:.0%} of the samples of step {trainer.cursor.total_steps + 1} have an invalid reward "
        f"(max_invalid is {stage.max_invalid:.0%}): {'; '.join(reasons[:3])}. The samples are in {where}; mend the "
        "reward and go on with --resume"
    )
