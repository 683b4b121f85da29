"""What the clauses of the adapter contract are made of: results, gradients, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.modalities.adapter import Adapter
from mmrl.training.stages.update import given_update, gradient
from mmrl.types import Group, Sample, Slice

# Batches of different shapes run different matrix kernels, which round differently; anything above is a mistake.
ROUNDING = 1e-4
GRADIENT_ROUNDING = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
# Of a log-prob, for forwards of the same weights in batches of other shapes.
LOGP_ROUNDING = {torch.float32: 0.0, torch.float16: 0.02, torch.bfloat16: 0.1}
CERTAIN = "the policy is certain of these samples, so their gradients are rounding only: check with other prompts"


@dataclass(frozen=True)
class CheckResult:
    """One clause of the contract: whether it holds, and the numbers, or what a failure means and where to look."""

    name: str
    passed: bool
    detail: str


def clause(name: str, run: Callable[[], tuple[bool, str]], through: tuple[type[Exception], ...] = ()) -> CheckResult:
    """through: errors that are no fault of the adapter's, and come through."""
    try:
        return CheckResult(name, *run())
    except through:
        raise
    except Exception as error:
        return CheckResult(name, False, raised(error))


def raised(error: Exception) -> str:
    return f"raised {type(error).__name__}: {error}"


def all_columns(samples: Sequence[Sample]) -> Tensor:
    return torch.arange(max(len(s.actions.logp) for s in samples))


def stored_logp(samples: Sequence[Sample], columns: Tensor) -> tuple[Tensor, Tensor]:
    """(logp, mask) of the columns, [b, t]; shorter trajectories are masked out."""
    logp = torch.zeros(len(samples), int(columns.max()) + 1)
    mask = torch.zeros_like(logp, dtype=torch.bool)
    for row, sample in enumerate(samples):
        length = min(len(sample.actions.logp), logp.shape[1])
        logp[row, :length], mask[row, :length] = sample.actions.logp[:length], sample.actions.mask[:length]
    return logp[:, columns], mask[:, columns]


def gradient_of(
    adapter: Adapter, samples: Sequence[Sample], slices: Iterable[Slice], mask: Tensor | None = None
) -> list[Tensor]:
    """The GRPO gradient of all slices together, each action of the mask counting the same; advantages 1, -1/2, 1 ...,
    so that the gradients of equal samples do not cancel.

    The clip range is the adapter's, or what holds all that the precision rounds: a ratio that is off by rounding would
    be clipped in one cut into micro-batches and not in the other.
    """
    advantage = 1.0 - 1.5 * (torch.arange(len(samples)) % 2)
    clip = (max(side, 10 * LOGP_ROUNDING[adapter.precision]) for side in adapter.default_clip)
    algorithm = Algorithm(aggregate="token_mean").with_defaults(*clip)
    update = given_update(samples, advantage, algorithm, mask)
    parameters = list(adapter.trainable_parameters().values())
    kept = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        for part in gradient(adapter, update, list(slices)):
            if not np.isfinite(part.loss):
                raise ValueError(f"the loss of a micro-batch is {part.loss}")
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    finally:
        for p, before in zip(parameters, kept):
            p.grad = before


def one_slice(samples: Sequence[Sample], columns: Tensor | None = None) -> list[Slice]:
    """All samples in one micro-batch."""
    return [Slice(torch.arange(len(samples)), all_columns(samples) if columns is None else columns)]


def distance(some: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[float, float]:
    """(norm of the difference relative to the first norm, first norm)."""
    norm = float(torch.stack([g.double().norm() for g in some]).norm())
    gap = float(torch.stack([(a.double() - b.double()).norm() for a, b in zip(some, others)]).norm())
    return (gap / norm if norm else (0.0 if gap == 0 else float("inf"))), norm


def near_one(adapter: Adapter) -> float:
    """How far the first ratios may be off: a tenth of the clip range, or what the precision rounds."""
    return max(float(min(adapter.default_clip)) / 10, LOGP_ROUNDING[adapter.precision])


def certain(adapter: Adapter, logp: Tensor, mask: Tensor) -> bool:
    """Whether the policy could hardly have acted otherwise: the gradient of such actions is mostly rounding."""
    return bool((logp[mask].abs() < adapter.certain_logp).all())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return np.array_equal(np.asarray(a), np.asarray(b))


def same_artifacts(some: Sequence[Group], others: Sequence[Group]) -> bool:
    pairs = zip((s for g in some for s in g.samples), (s for g in others for s in g.samples), strict=True)
    return all(same(a.artifact, b.artifact) for a, b in pairs)
