"""The gradient of a loss of whole scores, exact however their rows are cut into micro-batches.

Losses of pairs and of lists depend on scores alone (numbers of a head, log-probabilities of whole answers), and their
gradient is a number for each score. So scores are computed without gradient first, the loss is differentiated by them,
and the second pass, micro-batch by micro-batch, is a weighted sum of scores: the rows of a record need not be in memory
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmrl.training.learner import refuse_non_finite
from mmrl.training.stages.base import Stage
from mmrl.training.stages.together import missing, take_part

Part = TypeVar("Part")


def two_passes(
    stage: Stage[Any],
    scores: Tensor,
    losses: Callable[[Tensor], Tensor],
    parts: Sequence[Part],
    again: Callable[[Part], tuple[Tensor, Tensor]],
    everyone: int,
    ids: Iterable[str],
    spare: Callable[[], Tensor] | None = None,
) -> float:
    """Accumulate the gradient of the mean loss over `everyone`, the records of all processes; returns that mean.

    scores: [K, ...] of the first pass, without gradient. losses: scores -> [P], a loss for each record of this process.
    parts: the micro-batches of the second pass, of which those before the cursor are done. again: a micro-batch ->
    (places in [K], their scores with gradient); a score that is cut is the sum of its pieces. ids: of the records.
    spare: scores with gradient of a small micro-batch, which a process takes part with that has fewer than others.
    Raises NonFiniteError, before any gradient, for a loss that is no number.
    """
    leaf = scores.clone().requires_grad_(True)
    lost, share = losses(leaf), 1 / max(everyone, 1)
    (gradient,) = torch.autograd.grad(lost.sum() * share, leaf, allow_unused=True) if len(leaf) else (None,)
    weights = torch.zeros_like(scores) if gradient is None else gradient
    run, cursor = stage.run, stage.cursor
    mean = run.processes.total(float(lost.detach().sum())) * share
    refuse_non_finite(f"{stage.options.kind} loss", mean, cursor.step + 1, ids)
    cursor.phase = "update"
    more = missing(run, len(parts))
    for number, part in enumerate(parts):
        if number < cursor.micro:
            continue
        places, made = again(part)
        if made.requires_grad:
            made.backward(weights[places].to(made))
        cursor.micro = number + 1
        run.point("micro")
    if more:
        assert spare is not None, "an adapter that can be divided has something to score"
        take_part(more, spare)
    return mean
