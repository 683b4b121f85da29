"""The estimate of a stage in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mmrl.reporting.summary import own_peak_rss_mb
from mmrl.training.estimate.memory import Sizes, checkpoint, largest_phase, phases, shown
from mmrl.training.estimate.stages import blank_samples, is_hollow, sizes_of
from mmrl.training.stages.base import Stage
from mmrl.types import Prompt

# What a training imports and allocates in main memory beyond what a plan has loaded, and what CUDA itself takes of a
# GPU; measured (benchmarks/memory.py).
REST, CUDA = 60 << 20, 500 << 20


def memory_lines(stage: Stage[Any], prompts: Sequence[Prompt]) -> Iterator[str]:
    """Lines about a stage of a run without weights: its micro-batches, and what memory it takes at most."""
    base = int(own_peak_rss_mb() * 2**20)
    name = stage.options.name
    if not is_hollow(stage.run.adapter):
        yield f"memory of stage {name}: not estimated, its adapter is made with its weights"
        return
    yield from _micro_batches(stage, prompts)
    try:
        sizes = sizes_of(stage, prompts)
    except Exception as error:  # whatever the code of a model raises on tensors that are not there
        yield f"memory of stage {name}: not estimated: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return
    yield f"memory of stage {name}: about {total(sizes, base, on_gpu(stage))}"
    yield f"  {parts(sizes)}"


def on_gpu(stage: Stage[Any]) -> bool:
    """Whether the run would train on a GPU here."""
    return stage.run.config.device == "auto" and torch.cuda.is_available()


def total(sizes: Sizes, base: int, gpu: bool) -> str:
    """The largest phase. base: bytes that a process has already, before it has a model."""
    phase, size = largest_phase(phases(sizes, together=gpu))
    saved = checkpoint(sizes, on_host=not gpu)
    if gpu:
        return f"{shown(size + CUDA)} of a GPU ({phase}), {shown(base + REST + saved)} of main memory (checkpoint)"
    if saved > size:
        phase, size = "checkpoint", saved
    return f"{shown(size + base + REST)} a process ({phase}), {shown(base + REST)} of them libraries and data"


def parts(sizes: Sizes) -> str:
    """What the sizes are, those that are something."""
    named = {
        "weights": sizes.weights,
        "optimizer": sizes.moments,
        "average": sizes.average,
        "reference": sizes.reference,
        "rollout": sizes.sampling,
        "update with gradients": sizes.update,
    }
    return ", ".join(f"{name} {shown(size)}" for name, size in named.items() if size)


def _micro_batches(stage: Stage[Any], prompts: Sequence[Prompt]) -> Iterator[str]:
    samples, _ = blank_samples(stage, prompts)
    if not samples or not stage.learners:
        return
    slices = list(stage.run.adapter.slices(samples, stage.options.micro_batch))
    yield (
        f"stage {stage.options.name}: at most {len(slices)} micro-batches an update and process, the fullest of "
        f"{max(len(s.rows) for s in slices)} samples"
    )
