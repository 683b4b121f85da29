"""What would bring a step's efficiency up: each change that a config can make is simulated, and the best are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from mmrl.training.simulation.hardware import Hardware
from mmrl.training.simulation.step import PARTS, losses, seconds
from mmrl.training.simulation.work import Layout, Work

GOAL = 0.9
_LEAST = 0.01  # what a change has to gain to be told
_PROMPTS = 64  # a GPU: with as many, no more are tried


@dataclass(frozen=True)
class Simulated:
    """A step on so many GPUs. limit: the part that loses most. advice: (what to change, efficiency with it and all
    before it)."""

    work: Work
    layout: Layout
    seconds: dict[str, float]
    efficiency: float
    limit: str
    advice: tuple[tuple[str, float], ...] = ()

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def simulate(work: Work, layout: Layout, hard: Hardware) -> Simulated:
    """A step, and where its efficiency is below GOAL what to do, one change after the other, the best first."""
    efficiency, lost = losses(work, layout, hard)
    limit = max(lost, key=lambda part: lost[part])
    told: list[tuple[str, float]] = []
    here = (work, layout, efficiency)
    while here[2] < GOAL:
        found = [(words, w, at, losses(w, at, hard)[0]) for words, w, at in changes(here[0], here[1], hard)]
        words, better_work, better, reached = max(found, key=lambda one: one[3], default=("", work, layout, 0.0))
        if reached < here[2] + _LEAST:  # of very few prompts, twice as many may gain next to nothing, and many much
            found = [(words, w, here[1], losses(w, here[1], hard)[0]) for words, w in _more(here[0], here[1])]
            words, better_work, better, reached = next(
                (one for one in found if one[3] >= here[2] + _LEAST), ("", here[0], here[1], 0.0)
            )
        if not words:
            break
        told.append((words, reached))
        here = (better_work, better, reached)
    return Simulated(work, layout, seconds(work, layout, hard), efficiency, PARTS[limit], tuple(told))


def _more(work: Work, layout: Layout) -> Iterator[tuple[str, Work]]:
    """Four, eight ... times the prompts, as far as doubling goes in `changes`."""
    times = 2
    while times * work.groups < _PROMPTS * layout.gpus:
        times *= 2
        yield f"{times} times the prompts: groups={times * work.groups}", work.times(times)


def changes(work: Work, layout: Layout, hard: Hardware) -> Iterator[tuple[str, Work, Layout]]:
    """What a config can change, in words, and what it makes of the step."""
    if work.groups < _PROMPTS * layout.gpus:
        yield f"twice the prompts: groups={2 * work.groups}", work.times(2), layout
    even = -(-work.groups // layout.trainers) * layout.trainers
    if even != work.groups:
        yield f"groups={even}, which {layout.trainers} divides", dataclasses.replace(work, groups=even), layout
    if layout.shards > hard.node and layout.trainers % hard.node == 0:
        within = dataclasses.replace(layout, shards=hard.node)
        yield f"shards within a node: sharding.shards={hard.node}", work, within
    if layout.shards > 1 and not layout.half and work.narrow < 1:
        yield "sharding.gathered=bfloat16", work, dataclasses.replace(layout, half=True)
    if layout.shards > 1 and not layout.late:
        yield "sharding.sync=update", work, dataclasses.replace(layout, late=True)
    if layout.shards > 1:
        yield "twice the micro_batch", dataclasses.replace(work, micro_batch=2 * work.micro_batch), layout
    # Divided weights go to no engine yet (mmrl.training.sharding).
    if work.varied and layout.gpus > 1 and layout.shards == 1 and not layout.engines:
        for part in (8, 4, 2):
            engines = layout.gpus // part
            if engines:
                words = f"asynchronous rollouts, vLLM servers on {engines} of the GPUs (asynchronous={{staleness: 1}})"
                yield words, work, dataclasses.replace(layout, engines=engines)
