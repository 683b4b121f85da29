"""What the updates of a distill stage take: a turn of each of its roles, on blank samples of which half won."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch

from mmrl.training.stages.distill import Distill
from mmrl.training.stages.experience import Experience
from mmrl.training.stages.turns import Turn
from mmrl.types import Group, Sample, Score

_STEPS = 60  # last steps of a stage over whose updates a mean is taken: roles come every so many

# Bytes that a computation holds at most, and its operations.
Peak = Callable[[Callable[[], Any]], int]
Count = Callable[[Callable[[], Any]], float]


class Updates(NamedTuple):
    """Of all updates of a step. flops: for each of its samples. parts: micro-batches. trained: parameters that are
    stepped, each as often as it is."""

    flops: float
    parts: float
    trained: float


def turn_peaks(stage: Distill, samples: Sequence[Sample], n: int, peak: Peak) -> dict[str, int]:
    """Bytes of each kind of update, by the name of its loss, and of real samples that the teacher draws.

    samples: of one process's share of a step, n of a prompt, of whose whole groups as many are looked at as a
    micro-batch has samples.
    """
    options = stage.options
    enough = n * -(-options.micro_batch // n)
    found: dict[str, int] = {}
    if options.adversary and options.adversary.real == "teacher":
        together = max(enough, n * (options.rollout_chunk or 1))
        found["real samples"] = peak(partial(_teacher_draws, stage, _scored(stage, samples[:together], n)))
    several = len(samples) > options.micro_batch
    return found | {turn.loss: peak(partial(_turn, stage, turn, several)) for turn, _ in _kinds(stage, samples, n)}


def step_counts(stage: Distill, samples: Sequence[Sample], n: int, counted: Count) -> Updates:
    """What all updates of a step take, the mean of the stage's last steps. samples: as for turn_peaks. counted: the
    operations of a computation."""
    options, cursor = stage.options, stage.cursor
    some = _scored(stage, samples[: n * -(-options.micro_batch // n)], n)
    flops, parts, trained = 0.0, 0.0, 0.0
    if options.adversary and options.adversary.real == "teacher":
        one = counted(partial(_teacher_draws, stage, some))
        flops += one * options.adversary.teacher_steps / sum(len(group.samples) for group in some)
    kinds = {turn.loss: (turn, counted(partial(_turn, stage, turn, False)) / count)
             for turn, count in _kinds(stage, samples, n)}  # fmt: skip
    before = cursor.step
    steps = range(max(0, options.steps - _STEPS), options.steps)
    try:
        for cursor.step in steps:
            # Who is updated does not depend on what there is to learn from.
            for turn in stage.turns(some, cast(Experience, some)):
                size = sum(p.numel() for p in stage.learners[turn.role].parameters.values())
                flops += kinds[turn.loss][1] / len(steps)
                parts += -(-len(samples) // options.micro_batch) / len(steps)
                trained += size / len(steps)
    finally:
        cursor.step = before
    return Updates(flops, parts, trained)


def _kinds(stage: Distill, samples: Sequence[Sample], n: int) -> Iterator[tuple[Turn, int]]:
    """One of each kind of update, and on how many samples, while the step is one that has it."""
    options, cursor = stage.options, stage.cursor
    enough = n * -(-options.micro_batch // n)
    groups = _scored(stage, samples[:enough], n)
    if options.adversary and options.adversary.real != "teacher":
        stage.reals.begin(groups, 0, partial(stage.acting, "reference"))
    elif options.adversary and not stage.reals.drawn:
        _teacher_draws(stage, groups)
    looks: list[tuple[int, list[Group], Experience | None]] = []
    if stage.joint:  # an update is over a part of the groups
        some = _scored(stage, samples[: enough * options.updates], n)
        looks.append((stage.joint.joint.after, groups, stage.joint.experience(some, len(some))))
    looks.append((0, groups, None))
    if stage.surrogate:  # looks at each sample at all levels
        few = max(2, -(-options.micro_batch // len(stage.surrogate.levels)))
        some = _scored(stage, samples[:few], n)
        looks.append((0, some, stage.surrogate.experience(some, len(some))))
    found: set[str] = set()
    before = cursor.step
    try:
        for cursor.step, some, experience in looks:
            for turn in stage.turns(some, experience):
                if turn.loss not in found:
                    found.add(turn.loss)
                    yield turn, sum(len(group.samples) for group in some)
    finally:
        cursor.step = before


def _scored(stage: Distill, samples: Sequence[Sample], n: int) -> list[Group]:
    names = list(stage.run.weights)
    # As of an earlier version: nobody compares what was sampled with what is replayed.
    won = [dataclasses.replace(s, scores=dict.fromkeys(names, Score.of(s.index % 2)), version=-1) for s in samples]
    return [Group(won[start].prompt, start // n, won[start : start + n]) for start in range(0, len(won), n)]


def _teacher_draws(stage: Distill, groups: Sequence[Group]) -> None:
    """A denoising step of the pictures that are denoised together: all steps take the same."""
    asked = [Group(group.prompt, group.index) for group in groups]
    with stage.acting("reference"):
        stage.reals.take(stage.run.adapter.solved(asked, stage.options.samples, 0, 1, stage.guidance))


def _turn(stage: Distill, turn: Turn, several: bool) -> None:
    """several: gradients of earlier micro-batches are there."""
    learner = stage.learners[turn.role]
    try:
        if several:
            for parameter in learner.parameters.values():
                parameter.grad = torch.empty_like(parameter)
        for _ in turn.addend().add(0):
            pass
    finally:
        learner.forget_gradient()
