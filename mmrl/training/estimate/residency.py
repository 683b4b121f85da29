"""Where each part of a run is while it trains on a GPU, and which share of it an engine beside the trainer takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmrl.training.estimate.lines import CUDA, Estimate
from mmrl.training.estimate.memory import MOMENTS, shown
from mmrl.training.plan_rewards import held, waiting
from mmrl.training.stages.base import Stage

OWN = frozenset({"transformers", "diffusers"})  # the policy itself samples
# vLLM's own default of gpu_memory_utilization (0.32).
SHARE = 0.92


@dataclass(frozen=True)
class Engine:
    """An engine with its own copy of the weights. share: of each GPU's memory, None on GPUs of its own. sleep: what it
    gives back while it does not sample: 0 nothing, 1 or 2 all of it."""

    name: str
    share: float | None = None
    sleep: int = 0


def engine_of(model: Any) -> Engine | None:
    """The engine that a model section asks for; None where the policy itself samples."""
    section = getattr(model, "engine", None)
    if section is None or section.name in OWN:
        return None
    options = section.options
    if section.name == "servers" or options.get("mode", "colocated") == "server":
        return Engine(section.name)
    share = (options.get("options") or {}).get("gpu_memory_utilization", SHARE)
    sleep = options.get("sleep", 0)
    # Anything else the engine refuses itself.
    known = isinstance(share, int | float) and 0 < share <= 1
    return Engine(section.name, float(share) if known else SHARE, sleep if sleep in (1, 2) else 0)


def residency_lines(stage: Stage[Any]) -> Iterator[str]:
    """What is on each GPU all the time, what comes to it when it is used, and what samples beside it."""
    adapter, shards = stage.run.adapter, stage.run.config.sharding.shards
    parked, parts = adapter.parked(), adapter.parts()
    divided = f" in {shards} parts" if shards > 1 else ""
    always = {f"{name}{divided if name == 'policy' else ''}": _size(part) for name, part in parts.items()
              if name not in parked}  # fmt: skip
    moved = [p for learner in stage.learners.values() for p in learner.parameters.values()]
    always[f"optimizer{divided}"] = MOMENTS * _size(moved)
    averages = [t for one in stage.learners.values() if one.average for t in one.average.weights.values()]
    always[f"average{divided}"] = _size(averages)
    others = [t for name, role in stage.roles.items() if name != "policy" for t in role.weights.values()]
    always[f"other roles{divided}"] = _size(others)
    if stage.needs_reference:
        adapter.prepare_reference()
        always[f"reference{divided}"] = _size(adapter.reference_parameters().values())
    rewards = [*stage.run.rewards, *stage.run.eval_rewards]
    scoring = waiting(rewards)
    always["rewards"] = held(rewards) - sum(scoring.values())
    yield f"residency of stage {stage.options.name} on a GPU: always {_told(always)}"
    if parked:
        yield f"  in main memory, on the GPU while it is used: {_told({n: _size(p) for n, p in parked.items()})}"
    if scoring:
        yield f"  in main memory, on the GPU while they score, beside rollouts too: {_told(scoring)}"
    engine = engine_of(stage.run.config.model)
    if shards > 1 and stage.rolled_out:
        beside = engine is not None and engine.share is not None
        when = "is evaluated, and replays what the engine sampled" if beside else "samples"
        yield f"  while the policy itself {when}: its weights as a whole"
    if engine is not None and stage.rolled_out:
        yield f"  {_sampled(engine)}"


def _sampled(engine: Engine) -> str:
    if engine.share is None:
        return f"{engine.name} samples on GPUs of its own: nothing here"
    when = "while it samples" if engine.sleep else "all the time (sleep: 0)"
    kept = ", its weights in main memory else" if engine.sleep == 1 else ""
    return (
        f"{engine.name} beside the trainer: {engine.share:g} of the GPU's memory (gpu_memory_utilization) {when}{kept}"
    )


def engine_lines(stage: Stage[Any], found: Estimate) -> Iterator[str]:
    """How large a GPU has to be for the trainer and an engine beside it: the engine takes a share of the whole, in
    which the model has to find place."""
    engine = engine_of(stage.run.config.model)
    if engine is None or engine.share is None or not stage.rolled_out:
        return
    least, beside = least_gpu(engine, dataclasses.replace(found, gpu=True))
    told = shown(least) if math.isfinite(least) else "more memory than there is"
    less = "" if engine.sleep else ", or sleep: 1,"
    yield (
        f"memory of stage {stage.options.name} with {engine.name} on the same GPU: it takes {engine.share:g} of all, "
        f"the trainer {shown(beside)} meanwhile: a GPU of {told} or more (a lower gpu_memory_utilization{less} takes "
        "less)"
    )


def least_gpu(engine: Engine, trainer: Estimate) -> tuple[float, float]:
    """(bytes of the smallest GPU for both, bytes that the trainer holds while the engine is awake). trainer: on a GPU.

    The engine's share has to hold its copy of the weights, and what is left of the GPU the trainer.
    """
    assert engine.share is not None
    beside = trainer.sizes.resident + CUDA if engine.sleep else trainer.peak
    left = 1 - engine.share
    least = max(beside / left if left > 0 else math.inf, trainer.sizes.weights / engine.share)
    return max(least, trainer.peak), beside


def _size(tensors: Iterable[Tensor]) -> int:
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def _told(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {shown(size)}" for name, size in sizes.items() if size)
