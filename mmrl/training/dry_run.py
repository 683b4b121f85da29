"""`mmrl plan`: everything that a training loads, looked at without training, and without the model's weights.

It goes through the functions that a training goes through (assemble, made_stage), so that what stops one stops both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from mmrl.config import Config, ConfigError, DistillStage, ForwardProcessStage
from mmrl.data.prompts import heldout_prompts, training_prompts
from mmrl.data.records import Records
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.modalities.files import NotDownloaded
from mmrl.training.assemble import LOOKED_AT, assemble, load_rewards
from mmrl.training.checkpoint import Checkpoints
from mmrl.training.cursor import Cursor
from mmrl.training.estimate.lines import Estimate
from mmrl.training.estimate.residency import engine_lines, residency_lines
from mmrl.training.estimate.splitting import most_rows, sharded_sizes
from mmrl.training.estimate.stages import blank_samples, estimate, is_hollow, role_lines
from mmrl.training.evaluation.scores import check_tasks, chosen
from mmrl.training.fitting import check_prompts
from mmrl.training.packages import check_packages
from mmrl.training.plan_batches import batch_lines, check_rows
from mmrl.training.plan_prompts import prompt_lines
from mmrl.training.plan_rewards import reward_lines
from mmrl.training.planned import PlannedProcesses
from mmrl.training.policy import Policy
from mmrl.training.provenance import made_with, refuse_other_run
from mmrl.training.run import Run
from mmrl.training.sharding import refuse
from mmrl.training.stages.base import Stage
from mmrl.training.stages.kinds import made_stage
from mmrl.types import Prompt


def dry_run(config: Config, processes: int = 1, resume: bool = False) -> Iterator[str]:
    """Lines about what is there: files of the model, rewards, data, processes, tokens, memory; each once it is known.

    processes: how many the run would have. resume: check that a training would go on from the run's checkpoint.
    Raises what a training would raise before its first step, as far as that is known without the weights.
    """
    shards = config.sharding.shards
    refuse(config, processes)
    check_packages(config)
    files = getattr(config.model, "files", None)
    yield from files() if files else ()
    try:
        run = assemble(config, PlannedProcesses(processes), weights=False)
    except NotDownloaded:
        yield from _without_model(config)
        return
    yield from reward_lines([*run.rewards, *run.eval_rewards])
    yield from _found(run.data.prompts, run.data.eval_prompts, run.data.records)
    yield from run.adapter.plan_lines()
    if shards > 1:
        check_rows(shards, most_rows(run.adapter))
    if run.data.eval_prompts:
        check_tasks(chosen(run.data.eval_prompts, config.eval), config.eval)
    if resume:
        yield _resumable(run)
    elif Checkpoints(run.folder, 1).latest:
        yield f"folder: {run.folder} holds a run already; train with --resume, --fresh or another name"
    policy, cursor = Policy(run.adapter), Cursor()
    for number, options in enumerate(config.stages):
        policy.select(options.components, options.name)
        cursor.begin_stage(number)
        yield from batch_lines(options, processes)
        if options.data_from is not None:
            yield f"stage {options.name}: its data come from stage {options.data_from}, and are not looked at"
            continue
        stage = made_stage(run, options, policy, cursor)
        prompts, lines = _lengths(run.adapter, stage.rolled_out)
        yield from lines
        yield from _micro_batches(stage, prompts)
        yield from _estimated(stage, prompts)
        yield from role_lines(stage)


def estimates(config: Config) -> Iterator[tuple[str, Estimate]]:
    """(name, memory) of each stage whose data are there."""
    for stage, prompts in made_stages(config):
        yield stage.options.name, estimate(stage, prompts)


def made_stages(config: Config) -> Iterator[tuple[Stage[Any], list[Prompt]]]:
    """Each stage whose data are there, of a run without weights on one process, and its prompts, the longest first."""
    run = assemble(config, PlannedProcesses(1), weights=False)
    policy, cursor = Policy(run.adapter), Cursor()
    for number, options in enumerate(config.stages):
        policy.select(options.components, options.name)
        cursor.begin_stage(number)
        if options.data_from is None:
            stage = made_stage(run, options, policy, cursor)
            yield stage, _lengths(run.adapter, stage.rolled_out)[0]


# -------------------------------------------------------------------- what is there


def _found(prompts: Sequence[Prompt], held: Sequence[Prompt], records: Records | None) -> Iterator[str]:
    counts = {"prompts": len(prompts), "held-out prompts": len(held), "records": records.count if records else 0}
    told = [f"{count} {name}" for name, count in counts.items() if count]
    if told:
        columns = sorted({key for p in (*prompts[:LOOKED_AT], *held[:LOOKED_AT]) for key in p.record})
        yield f"data: {', '.join(told)}" + (f"; columns {', '.join(columns)}" if columns else "")


def _without_model(config: Config) -> Iterator[str]:
    """What can be looked at where the model is to be downloaded."""
    rewards, eval_rewards = load_rewards(config, lacking=True)
    looked_at = config.prompts_looked_at
    prompts, held = training_prompts(config.data, looked_at=looked_at), heldout_prompts(config.data)
    check_prompts(prompts, rewards, config.data.on_bad_record, len(prompts) if looked_at is None else looked_at)
    check_prompts(held, eval_rewards, config.data.on_bad_record, len(held))
    wanted = any(stage.record_objectives() for stage in config.stages)
    yield from reward_lines([*rewards, *eval_rewards])
    yield from _found(prompts, held, Records(config.data) if wanted else None)
    yield from prompt_lines(config)
    yield "not looked at before the model is there: prompts as it reads them, stages, memory"


def _resumable(run: Run) -> str:
    """Raises CheckpointError where there is no checkpoint, or one of another config."""
    folder, state, _ = Checkpoints(run.folder, 1).read()
    cursor = Cursor()
    cursor.load(state["cursor"])
    refuse_other_run(state["made_with"], made_with(run), cursor, ())
    return f"resume: goes on from {folder}, behind step {cursor.total_steps}"


def steps_done(config: Config) -> int:
    """Steps that the run's last checkpoint has behind it. Raises CheckpointError without one."""
    _, state, _ = Checkpoints(config.run_dir, 1).read()
    return int(state["cursor"]["total_steps"])


# -------------------------------------------------------------------- tokens


def _lengths(adapter: Adapter, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
    """(the first prompts, those that take most of a micro-batch in front; lines about what they take)."""
    costs: list[tuple[dict[str, int], Prompt]] = [(adapter.cost(p), p) for p in prompts[:LOOKED_AT]]
    costs.sort(key=lambda pair: -max(pair[0].values(), default=0))
    names = list(costs[0][0]) if costs else []
    told = []
    for name in names:
        values = [cost.get(name, 0) for cost, _ in costs]
        told.append(f"{name} {min(values)} to {max(values)}, mean {statistics.fmean(values):.0f}")
    return [p for _, p in costs], [f"prompts: {'; '.join(told)} (of the first {len(costs)})"] if told else []


# -------------------------------------------------------------------- micro-batches and memory


def _micro_batches(stage: Stage[Any], prompts: Sequence[Prompt]) -> Iterator[str]:
    # Of draws, not of actions: their plan lines have counted them.
    if isinstance(stage.options, ForwardProcessStage | DistillStage):
        return
    samples, _ = blank_samples(stage, prompts)
    if samples and stage.learners:
        slices = list(stage.run.adapter.slices(samples, stage.options.micro_batch))
        yield (
            f"stage {stage.options.name}: at most {len(slices)} micro-batches an update and process, of at most "
            f"{max(len(part.rows) for part in slices)} samples"
        )


def _estimated(stage: Stage[Any], prompts: Sequence[Prompt]) -> Iterator[str]:
    name = stage.options.name
    if not is_hollow(stage.run.adapter):
        yield f"memory of stage {name}: not estimated, its adapter is made with its weights"
        return
    try:
        if stage.run.config.sharding.shards > 1:
            yield from sharded_sizes(stage, prompts).lines(name, stage.run.processes.world)
        else:
            found = estimate(stage, prompts)
            yield found.line(name)
            yield from engine_lines(stage, found)
        yield from residency_lines(stage)
    except (ConfigError, Unsupported):  # a training would come to it, too
        raise
    except Exception as error:  # whatever the code of a model raises where tensors hold no numbers
        told = " ".join(str(error).split())[:200]
        yield f"memory of stage {name}: not estimated: {type(error).__name__}: {told}"
