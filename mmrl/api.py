"""The Python API: what the CLI does, in a few calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrl import objects
from mmrl.config import Config, ConfigError, load
from mmrl.share import share

if TYPE_CHECKING:
    from mmrl.training.loop import Loop
    from mmrl.training.processes import Processes

# What names a config: one that is made, a mapping, a file, or the name of one that ships. In mappings, rows may stand
# where a source of data is named, and a callable where a reward is.
Source = str | Path | Mapping[str, Any] | Config


def train(
    config: Source,
    *,
    resume: bool = False,
    fresh: bool = False,
    allow: Sequence[str] = (),
    should_stop: Callable[[str], bool] | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """Train a config and return its summary (the content of summary.json).

    config: a Config, a mapping, a YAML file, or the name of a shipped config such as "image/tiny". In a mapping and in
        overrides, `data.prompts`, `data.eval_prompts`, `data.records` and a stage's `pairs` may be rows (dicts, texts,
        `datasets` objects, a generator) or a function of the index, and `rewards` may be callables, or sections whose
        `name` is one. Give them again to resume.
    resume: go on from the run's last checkpoint. fresh: move an existing run of that name aside first.
    allow: keys of the config that may differ from what the run began with, on a resume.
    overrides: keys with `__` for the dots, e.g. `seed=1`, `eval__every=10`, `stages__grpo__steps=20`.
    Raises ConfigError, RunFolderError, CheckpointError, and Stopped when a signal ended the run after it was saved; of
    several processes all raise where one fails: that one its error, the others Failed with its reason.
    """
    from mmrl.training.stopping import Stopped

    made = _config(config, overrides)
    processes = _processes(made)
    with processes.ending_together(besides=(Stopped,)):
        loop = trainer(
            made,
            resume=resume,
            fresh=fresh,
            should_stop=should_stop,
            quiet=quiet,
            allow=allow,
            processes=processes,
        )
        return loop.train(resume)


def trainer(
    config: Config,
    *,
    resume: bool = False,
    fresh: bool = False,
    allow: Sequence[str] = (),
    should_stop: Callable[[str], bool] | None = None,
    quiet: bool = False,
    processes: Processes | None = None,
) -> Loop:
    """The loop of a config with everything loaded, its run folder claimed and described; call its `train(resume)`.

    processes: those that run it; None: made as the config says.
    """
    from mmrl.training.assemble import assemble
    from mmrl.training.loop import Loop
    from mmrl.training.run_folder import claim, describe

    processes = processes or _processes(config)
    _check_objects(config, processes)
    processes.once(lambda: claim(config.run_dir, resume, fresh))
    processes.appear()
    run = assemble(config, processes, should_stop, quiet=quiet)
    if not resume:
        processes.once(lambda: describe(config))
    return Loop(run, quiet=quiet, allow=allow)


def plan(
    config: Source,
    *,
    processes: int | None = None,
    shards: int | None = None,
    resume: bool = False,
    measure: bool = False,
    simulate: Sequence[int] = (),
    hardware: str = "h100",
    **overrides: Any,
) -> Iterator[str]:
    """Lines about what a training would do and take: its arithmetic, what was found, memory; nothing is left on disk.

    processes: to plan for; None: those that a launcher started. shards: in the place of the config's
    `sharding.shards`. resume: look at the run's last checkpoint, too.
    measure: train one step of every stage, for its time and memory. simulate: numbers of GPUs on each of which a step
    is simulated; hardware: of such GPUs, a name or a YAML file (docs/plan.md).
    Raises, as the lines are asked for, what `train` would raise before its first step.
    """
    from mmrl.launched import processes as started
    from mmrl.training.plan import plan_text

    made = _config(config, overrides)
    if shards is not None:
        made = made.model_copy(update={"sharding": made.sharding.model_copy(update={"shards": shards})})
    world = processes or started()
    yield from plan_text(made, world).splitlines()
    from mmrl.training.dry_run import dry_run

    yield from dry_run(made, world, resume)
    if simulate:
        from mmrl.training.simulated import simulated

        yield from simulated(made, simulate, hardware)
    if measure:
        from mmrl.training.dry_run import steps_done
        from mmrl.training.measure import measured

        yield from measured(made, steps_done(made) if resume else 0)
    else:
        yield "time: not known before a step is measured (--measure)"


def evaluate(config: Source, *, run: str | Path | None = None, **overrides: Any) -> dict[str, float]:
    """Held-out scores of a config's model, or of the last checkpoint of `run`; nothing is stored."""
    from mmrl.training.assemble import assemble, with_checkpoint
    from mmrl.training.evaluation.heldout import heldout

    made = with_checkpoint(_config(config, overrides), run)
    made = made.model_copy(update={"report": made.report.model_copy(update={"eval_prompts": 0}), "trackers": []})
    assembled = assemble(made, training=False)
    if not assembled.data.eval_prompts:
        raise ConfigError("eval needs `data.eval_prompts:`")
    try:
        return heldout(assembled, "now", must_score=True)
    finally:
        assembled.adapter.close()


def sample(
    config: Source,
    prompts: Sequence[str],
    *,
    n: int = 1,
    seed: int = 0,
    run: str | Path | None = None,
    **overrides: Any,
) -> list[list[Any]]:
    """n artifacts for each prompt, sampled as in evaluation, by a config's model or a run's last checkpoint."""
    from mmrl.training.assemble import load_adapter, set_threads, with_checkpoint
    from mmrl.types import Prompt

    made = with_checkpoint(_config(config, overrides), run)
    set_threads(made)
    adapter = load_adapter(made)
    wanted = [Prompt(f"{i}:{text}", text, {"prompt": text}) for i, text in enumerate(prompts)]
    try:
        return [[s.artifact for s in group.samples] for group in adapter.evaluate(wanted, n, seed)]
    finally:
        adapter.close()


def default_config(modality: str) -> str:
    """The config that `mmrl train --modality NAME` runs."""
    from mmrl.modalities.load import DEFAULTS

    if modality not in DEFAULTS:
        raise ConfigError(f"modality {modality!r} has no embedded default; known: {', '.join(DEFAULTS)}")
    return str(share("configs", f"{DEFAULTS[modality]}.yaml"))


def _check_objects(config: Config, processes: Processes) -> None:
    """Raise ConfigError where processes were given different objects: each would train on its own."""
    pairs = [str(getattr(stage, "pairs", None)) for stage in config.stages]
    seen = processes.gather([*config.data.sources, *pairs, *(reward.name for reward in config.rewards)])
    differing = next((pair for other in seen for pair in zip(seen[0], other) if pair[0] != pair[1]), None)
    if differing:
        raise ConfigError(
            f"processes were given different objects: {' and '.join(differing)}; make the same data on each (seed what "
            "shuffles it)"
        )


def _processes(config: Config) -> Processes:
    """The processes of a run, with its threads."""
    from mmrl.training.assemble import set_threads
    from mmrl.training.processes import Processes

    set_threads(config)
    return Processes(config.device, config.trackers, str(config.run_dir), config.timeout)


def _config(source: Source, overrides: Mapping[str, Any]) -> Config:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    try:
        made = objects.replaced({"config": source, "overrides": dotted})
    except ValueError as error:
        raise ConfigError(str(error)) from None
    source, changes = made["config"], list(made["overrides"].items())
    if isinstance(source, Config):
        return load(source.model_dump(mode="json"), changes) if changes else source
    return load(source, changes)


__all__ = ["evaluate", "plan", "sample", "train", "trainer"]
