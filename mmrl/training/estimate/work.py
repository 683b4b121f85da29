"""What a step of a stage computes, sends and reads, counted on a model without weights: a simulation begins there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmrl.modalities.adapter import Unsupported
from mmrl.training.estimate.distilled import Updates, step_counts
from mmrl.training.estimate.splitting import shared_units
from mmrl.training.estimate.stages import blank_samples, one_update
from mmrl.training.estimate.tracing import Tracer
from mmrl.training.estimate.units import Unit
from mmrl.training.simulation.work import Work
from mmrl.training.stages.base import Stage
from mmrl.training.stages.distill import Distill
from mmrl.training.stages.forward_process import ForwardProcess
from mmrl.training.stages.grpo import Grpo
from mmrl.types import Prompt, Sample

# What AdamW reads and writes of a parameter: itself, its gradient and two moments, and all but the gradient again.
_TOUCHED = 7
# As the counter has the kernels of GPUs; fake tensors say that they are on a CPU.
_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def work_of(stage: Stage[Any], prompts: Sequence[Prompt]) -> Work | None:
    """Of a stage that samples and was made of a run without weights; None of another. prompts: the longest first."""
    samples, n = blank_samples(stage, prompts)
    if not samples or not isinstance(stage, Grpo | ForwardProcess | Distill):
        return None
    adapter, options = stage.run.adapter, stage.options
    if stage.needs_reference:
        adapter.prepare_reference()
    try:
        found = shared_units(adapter)
    except Unsupported:  # then every process has all of it
        weights = {id(t): t for t in adapter.weights() if isinstance(t, nn.Parameter)}
        found = [Unit(tuple(weights.values()), root=True)]
    blocks = [unit.gathered(torch.float32) for unit in found if not unit.root]
    around = sum(unit.gathered(torch.float32) for unit in found if unit.root)
    sixteen = sum(unit.gathered(torch.bfloat16) for unit in found)
    numbers = sum(p.numel() for unit in found for p in unit.parameters)
    trained = sum(p.numel() for p in adapter.trainable_parameters().values())
    update = _update(stage, samples, n, trained)
    together = int(getattr(stage.run.config.model, "rollout_batch", len(samples)))
    deep = list(adapter.deep_modules())
    rows = min(together, len(samples))
    per_row = counted(lambda: adapter.trial(samples[::n], n), deep) / rows if deep else 2.0 * numbers
    asked = 0 if deep else max(adapter.cost(samples[0].prompt).values(), default=0)
    return Work(
        groups=options.groups,
        samples=n,
        micro_batch=len(samples) / update.parts,
        together=together,
        forwards=adapter.forwards(samples[0]),
        varied=samples[0].stop == "length",
        forward_flops=per_row,
        prompt_flops=2.0 * numbers * asked,
        update_flops=update.flops,
        weights=sixteen if adapter.precision != torch.float32 else sum(blocks) + around,
        blocks=len(blocks),
        block=sum(blocks) / max(1, len(blocks)),
        around=around,
        gradients=4.0 * update.trained,
        optimizer=4.0 * _TOUCHED * update.trained,
        narrow=sixteen / max(1, sum(blocks) + around),
    )


def _update(stage: Stage[Any], samples: Sequence[Sample], n: int, trained: int) -> Updates:
    """All updates of a step on these samples. trained: parameters of the policy."""
    if isinstance(stage, Distill):
        return step_counts(stage, samples, n, counted)
    if isinstance(stage, ForwardProcess):
        parts = max(1, -(-len(samples) * stage.options.draws // stage.options.micro_batch))
    else:
        parts = len(list(stage.run.adapter.slices(samples, stage.options.micro_batch)))
    return Updates(counted(lambda: one_update(stage, samples)) * parts / len(samples), parts, trained)


def counted(compute: Callable[[], Any], within: Sequence[nn.Module] = ()) -> float:
    """Operations of matrix products, convolutions and attention, a multiplication and an addition being two. within:
    only those that these modules make."""
    mapping = {
        _CPU: lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v),
        _BACKWARD: lambda g, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(g, q, k, v),
    }
    # The tracer behind the counter answers what fake tensors cannot: numbers that Python asks for.
    with Tracer(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        if not within:
            compute()
            return float(counter.get_total_flops())
        with _inside(within, counter) as made:
            compute()
        return made[0]


@contextmanager
def _inside(modules: Sequence[nn.Module], counter: FlopCounterMode) -> Iterator[list[float]]:
    """[operations that these modules' forwards have made]."""
    made, before = [0.0], [0.0]

    def begin(*_: Any) -> None:
        before[0] = float(counter.get_total_flops())

    def end(*_: Any) -> None:
        made[0] += float(counter.get_total_flops()) - before[0]

    hooks = [hook for m in modules for hook in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
    try:
        yield made
    finally:
        for hook in hooks:
            hook.remove()
