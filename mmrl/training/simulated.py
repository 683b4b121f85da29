"""`mmrl plan --simulate`: a step on other numbers of GPUs, from what the real model would compute and send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmrl.config import Config, ConfigError
from mmrl.training.dry_run import made_stages
from mmrl.training.estimate.stages import is_hollow
from mmrl.training.estimate.work import work_of
from mmrl.training.simulation.advice import simulate
from mmrl.training.simulation.hardware import hardware
from mmrl.training.simulation.table import assumptions, table
from mmrl.training.simulation.work import Layout


def simulated(config: Config, worlds: Sequence[int], name: str = "h100") -> Iterator[str]:
    """Lines about each stage that samples on each of these numbers of GPUs, and what was assumed. name: as `hardware`
    takes it. On fewer GPUs than `sharding.shards` as many share a copy of the model.

    Raises ConfigError for numbers of GPUs that the shards do not divide.
    """
    hard, sharding = hardware(name), config.sharding

    def layout(world: int) -> Layout:
        return Layout(world, min(sharding.shards, world), sharding.sync == "update", sharding.gathered is not None)

    for world in worlds:
        if world % min(sharding.shards, world):
            raise ConfigError(f"--simulate: sharding.shards={sharding.shards} does not divide {world} GPUs")
    for stage, prompts in made_stages(config):
        options = stage.options
        work = work_of(stage, prompts) if is_hollow(stage.run.adapter) else None
        if work is None:
            yield f"simulation of stage {options.name}: none; it samples nothing, or its model is not known by shapes"
            continue
        yield f"simulation of stage {options.name}, {work.groups} prompts x {work.samples} samples a step:"
        yield from table([simulate(work, layout(world), hard) for world in worlds])
    yield from assumptions(hard, name)
