"""Sizes of a stage whose model several processes share, of an adapter without weights (mmrl.modalities.hollow)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.modalities.adapter import Adapter
from mmrl.training.estimate.depth import peak_of_deep
from mmrl.training.estimate.distilled import Peak, turn_peaks
from mmrl.training.estimate.memory import MOMENTS
from mmrl.training.estimate.sharded import Sharded
from mmrl.training.estimate.stages import blank_samples, one_update, rolls_out
from mmrl.training.estimate.units import Unit, kept, most_gathered, units
from mmrl.training.optim import scratch
from mmrl.training.stages.base import Stage
from mmrl.training.stages.distill import Distill
from mmrl.types import Prompt, Sample


def sharded_sizes(stage: Stage[Any], prompts: Sequence[Prompt]) -> Sharded:
    """Sizes of a stage that was made of a run without weights, its model divided as the run's section `sharding` says.
    prompts: as for sizes_of."""
    adapter, options = stage.run.adapter, stage.run.config.sharding
    shards, late = options.shards, options.sync == "update"
    parked = [_size(_once(part)) for part in adapter.parked().values()]
    if stage.needs_reference:
        adapter.prepare_reference()
    held = held_parts(stage, shards)
    found = shared_units(adapter)
    compute = torch.float32 if options.gathered is None else getattr(torch, options.gathered)
    samples, n = blank_samples(stage, prompts)
    peak = partial(peak_of_deep, list(adapter.deep_modules()))
    with _as_gathered(adapter, compute):
        sampling = peak(partial(adapter.trial, samples[::n], n)) if rolls_out(stage) and samples else 0
        activations = _activations(stage, samples, n, peak)
    held["whole"] -= sum(parked)
    learners = stage.learners.values()
    if late:
        held["gradients"] = max(_size(learner.parameters.values()) for learner in learners)
    return Sharded(
        shards=shards,
        **held,
        scratch=max((scratch(one.optimizer, True, partial(kept, shards=shards)) for one in learners), default=0),
        gathered=most_gathered(found, compute),
        unreduced=0 if late else max((unit.gradients(compute) for unit in found), default=0),
        copy=sum(unit.gathered(compute) for unit in found) if sampling else 0,
        sampling=sampling + max(parked, default=0),
        activations=activations,
    )


def _activations(stage: Stage[Any], samples: Sequence[Sample], n: int, peak: Peak) -> int:
    """Bytes of an update's peak beside its gradients."""
    if not stage.learners:
        return 0
    if isinstance(stage, Distill) and samples:  # each turn lets go of its gradients, and counts them
        turns = turn_peaks(stage, samples, n, peak)
        return max(turns.values()) - min(_size(learner.parameters.values()) for learner in stage.learners.values())
    return peak(partial(one_update, stage, samples))


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def shared_units(adapter: Adapter) -> list[Unit]:
    """What is gathered together, of all models that are divided. Raises Unsupported where none can be."""
    return [unit for model in adapter.divisible() for unit in units(model.module, model.blocks, model.ignored)]


def most_rows(adapter: Adapter) -> int:
    """The longest first dimension of the parameters that can be split. Raises Unsupported where none can."""
    return max(p.shape[0] for unit in shared_units(adapter) for p in unit.parameters)


def held_parts(stage: Stage[Any], shards: int) -> dict[str, int]:
    """What one process keeps all the time, and its part of the gradients, by the names of Sharded."""
    adapter, learners = stage.run.adapter, stage.learners.values()
    split = {id(p): p for unit in shared_units(adapter) for p in unit.parameters}

    def part(tensors: Iterable[Tensor]) -> int:
        return sum(kept(t, shards) for t in _once(tensors))

    trained = [p for p in split.values() if p.requires_grad]
    frozen = [p for p in split.values() if not p.requires_grad]
    masters = "adapters" if frozen and getattr(stage.run.config.model, "train", None) == "lora" else "masters"
    moved = [p for learner in learners for p in learner.parameters.values()]
    return {
        "frozen": part(frozen),
        masters: part(trained),
        "whole": _size(t for t in _once(adapter.weights()) if id(t) not in split),
        "moments": MOMENTS * part(moved),
        "average": sum(part(learner.average.weights.values()) for learner in learners if learner.average),
        "roles": sum(part(role.weights.values()) for name, role in stage.roles.items() if name != "policy"),
        "reference": part(adapter.reference_parameters().values()) if stage.needs_reference else 0,
        "gradients": max((part(learner.parameters.values()) for learner in learners), default=0),
    }


def _once(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(t): t for t in tensors}.values())


@contextmanager
def _as_gathered(adapter: Adapter, compute: torch.dtype) -> Iterator[None]:
    """Inside, trained weights have the type in which blocks are gathered, and there are gradients: what is traced is
    activations alone."""
    parameters: list[nn.Parameter] = list(adapter.trainable_parameters().values())
    before = [p.data for p in parameters]
    try:
        for p in parameters:
            p.data = p.data.to(compute)
            p.grad = torch.empty_like(p)
        yield
    finally:
        for p, data in zip(parameters, before, strict=True):
            p.grad = None
            p.data = data
