"""From the `sharding:` section to weights that are divided: what is refused, and the dividing."""

from __future__ import annotations

from typing import Any

import torch

from mmrl.config import (
    Config,
    ConfigError,
    DistillStage,
    FilterStage,
    ForwardPreferenceStage,
    ForwardProcessStage,
    GrpoStage,
    PreferenceStage,
    RewardModelStage,
    SftStage,
)
from mmrl.core.algorithm import Algorithm
from mmrl.core.resolving import needs, needs_reference
from mmrl.modalities import unread
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.modalities.shards import DivisionError, Shards
from mmrl.training.processes import Processes

# Stages all of whose processes run the same blocks of the model in the same order.
KINDS = (
    GrpoStage,
    ForwardProcessStage,
    DistillStage,
    SftStage,
    PreferenceStage,
    ForwardPreferenceStage,
    RewardModelStage,
    FilterStage,
)


def divide(adapter: Adapter, config: Config, processes: Processes) -> None:
    """Divide the adapter's weights, whose device is the processes', as the config says, and read what was left unread.

    Raises ConfigError where that cannot be: the same on every process, which the main one tells.
    """
    with processes.failing_alike(ConfigError):
        options = config.sharding
        gathered = getattr(torch, options.gathered) if options.gathered else None
        try:
            models = adapter.divisible()
            untried = any(unread.is_unread(model.module) for model in models)
            adapter.shards = Shards(
                models, options.shards, processes.device, processes.reduce, options.sync == "update", gathered
            )
        except (Unsupported, DivisionError) as error:
            raise ConfigError(str(error)) from None
    if not processes.any(untried):
        return
    with processes.failing_alike(ConfigError), adapter.shards.trying():
        try:
            adapter.check_divided()
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error


def refuse_alike(config: Config, processes: Processes) -> None:
    """See refuse: on every process alike, before a model is read."""
    with processes.failing_alike(ConfigError):
        refuse(config, processes.world)


def refuse(config: Config, world: int) -> None:
    """Raise ConfigError where this number of processes cannot divide weights so, or a stage has another way."""
    shards = config.sharding.shards
    if shards > world:
        raise ConfigError(
            f"sharding.shards={shards} with {world} process{'es' if world > 1 else ''}: start as many "
            "(torchrun --nproc_per_node), or take fewer shards"
        )
    if world % shards:
        raise ConfigError(
            f"sharding.shards={shards} does not divide {world} processes, and each copy of the weights takes "
            f"{shards} of them; take sharding.shards={_divisors(world)}, or {world // shards * shards} or "
            f"{(world // shards + 1) * shards} processes"
        )
    for stage in config.stages if shards > 1 else ():
        where = f"stage {stage.name!r}"
        if not isinstance(stage, KINDS):
            kind = getattr(stage, "kind", type(stage).__name__)
            raise ConfigError(f"sharding: {where}: kind {kind} does not divide weights yet; leave sharding.shards at 1")
        if stage.components is not None:
            raise ConfigError(
                f"sharding: {where}: weights are divided once, as model.components are trained; leave the stage's "
                "components out, or sharding.shards at 1"
            )
        for algorithm in _algorithms(stage):
            _refuse_reference_outside(algorithm, where)


def _algorithms(stage: Any) -> list[Algorithm]:
    """By which a stage makes advantages."""
    sections = (stage, getattr(stage, "joint", None), getattr(stage, "surrogate", None))
    found = (getattr(section, "resolved", None) for section in sections)
    return [algorithm for algorithm in found if isinstance(algorithm, Algorithm)]


def _refuse_reference_outside(algorithm: Algorithm, where: str) -> None:
    """The reference takes the policy's place in each process's own parts: only where all do it together."""
    asked = needs_reference(algorithm) and algorithm.kl_place != "loss"
    if asked or "logp_reference" in needs(algorithm):
        raise ConfigError(
            f"sharding: {where}: the algorithm compares with the reference outside of its loss, which divided weights "
            "do not do yet; set algorithm.kl_place: loss, or leave sharding.shards at 1"
        )


def _divisors(world: int) -> str:
    """In words."""
    found = [str(n) for n in range(1, world + 1) if world % n == 0]
    return f"{', '.join(found[:-1])} or {found[-1]}"
