"""The seconds of a step, part by part: a step is their sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from mmrl.training.simulation.hardware import Hardware
from mmrl.training.simulation.work import Layout, Work, longest

# Parts in the order of a step, and in words.
PARTS = {
    "sampling": "sampling",
    "longest": "waiting for the longest answers",
    "rewards": "rewards",
    "update": "update",
    "gathering": "gathering weights, summing gradients",
    "whole": "whole weights for sampling",
    "transfer": "weights to the engines",
    "optimizer": "optimizer",
    "beside": "data and metrics",
    "engines": "waiting for the engines",
}


def seconds(work: Work, layout: Layout, hard: Hardware) -> dict[str, float]:
    """Seconds of each of PARTS on the process that has most to do."""
    found = dict.fromkeys(PARTS, 0.0)
    groups = ceil(work.groups / layout.trainers)
    samples = groups * work.samples
    found["rewards"] = samples * hard.reward
    found["update"], found["gathering"] = _update(work, layout, hard, samples)
    found["optimizer"] = work.optimizer / layout.shards / (hard.memory_bandwidth * hard.decode_share)
    found["beside"] = hard.step
    if layout.engines:
        found["transfer"] = work.weights / (hard.network * hard.reached) + layout.engines * hard.network_latency
        drawn = _pooled(work, layout.engines, hard)
        busy = sum(found.values()) - found["transfer"]
        found["engines"] = max(0.0, drawn - busy)
        return found
    found["sampling"], found["longest"] = _rollout(work, layout, hard, groups)
    if layout.shards > 1:
        found["whole"] = _gather(work.blocks * work.block + work.around, layout, hard, work.blocks + 1)
        found["whole"] *= work.narrow if layout.half else 1.0
    return found


def _forward(work: Work, rows: float, hard: Hardware) -> float:
    """A forward of so many rows computes, reads all weights, and its kernels are launched, at once or one after the
    other."""
    computed = rows * work.forward_flops / (hard.flops * hard.rollout_share)
    read = work.weights / (hard.memory_bandwidth * hard.decode_share)
    return _together((computed, read, hard.forward), hard)


def _together(takes: Sequence[float], hard: Hardware) -> float:
    """What can run at once, as far as it does."""
    return hard.overlap * max(takes) + (1 - hard.overlap) * sum(takes)


def _rollout(work: Work, layout: Layout, hard: Hardware, groups: int) -> tuple[float, float]:
    """(seconds of sampling answers of mean length, seconds more that the longest take). A batch ends with its longest
    answer, and the slowest of all processes with the longest of all of theirs."""
    rows = groups * work.samples
    batches = ceil(rows / work.together)
    each = _forward(work, rows / batches, hard)
    prompts = groups * work.prompt_flops / (hard.flops * hard.rollout_share)
    if not work.varied:
        return prompts + batches * work.forwards * each, 0.0
    mean = hard.length * work.forwards
    of_batch = longest(rows / batches, work.forwards, hard.length, hard.spread)
    of_all = longest(rows / batches * layout.trainers, work.forwards, hard.length, hard.spread)
    return prompts + batches * mean * each, ((batches - 1) * (of_batch - mean) + (of_all - mean)) * each


def _pooled(work: Work, engines: int, hard: Hardware) -> float:
    """Engines that never wait for one answer: what is drawn for a step, by all of them."""
    rows = min(work.together, work.groups * work.samples / engines)
    mean = (hard.length if work.varied else 1.0) * work.forwards
    forwards = work.groups * work.samples * mean / (rows * engines)
    prompts = work.groups * work.prompt_flops / engines / (hard.flops * hard.rollout_share)
    return prompts + forwards * _forward(work, rows, hard)


def _update(work: Work, layout: Layout, hard: Hardware, samples: int) -> tuple[float, float]:
    """(seconds of computing, seconds beside it that are not hidden behind it). All make as many micro-batches."""
    parts = max(1, ceil(samples / work.micro_batch))
    # A backward launches about twice the kernels of a forward.
    takes = (samples * work.update_flops / (hard.flops * hard.update_share), 3 * parts * hard.forward)
    computing = _together(takes, hard)
    copies = _sum(work.gradients / layout.shards, layout.copies, layout.shards, hard)
    if layout.shards == 1:
        return computing, copies
    # While a block computes, a third of it forward and two thirds backward, the next one's weights are on their way.
    narrow = work.narrow if layout.half else 1.0
    blocks = max(1, work.blocks)
    gather, first = (narrow * _gather(size, layout, hard) for size in (work.block, work.around))
    sent = _gather(work.gradients / blocks, layout, hard) + copies / blocks
    forward = hard.overlap * computing / parts / 3 / blocks
    behind = 0.0 if layout.late else sent
    waits = max(0.0, gather - forward) + max(0.0, gather + behind - 2 * forward)
    shown = parts * (2 * first + blocks * waits + behind)
    return computing, shown + (blocks * sent if layout.late else 0.0)


def _gather(size: float, layout: Layout, hard: Hardware, calls: int = 1) -> float:
    """Collecting so many bytes of which each of the shards has a part, in a ring; scattering sums takes as long."""
    return _ring(size, layout.shards, 1, hard, calls)


def _sum(size: float, copies: int, shards: int, hard: Hardware) -> float:
    """Summing so many bytes over the copies of a model, in a ring, there and back."""
    return 2 * _ring(size, copies, shards, hard)


def _ring(size: float, members: int, stride: int, hard: Hardware, calls: int = 1) -> float:
    """stride: GPUs from one member to the next. The slowest way between two of them counts, and all hops."""
    if members <= 1:
        return 0.0
    far = min(members, -(-members * stride // hard.node)) if members * stride > hard.node else 0
    speed = (hard.network if far else hard.link) * hard.reached
    hops = far * hard.network_latency + max(0, members - 1 - far) * hard.link_latency
    return (members - 1) / members * size / speed + calls * hops


def losses(work: Work, layout: Layout, hard: Hardware) -> tuple[float, Mapping[str, float]]:
    """(efficiency, seconds that each part takes beyond its share of what one GPU alone would take for all the work).

    One GPU is thought to have memory for it; efficiency is its seconds over those of all GPUs together.
    """
    alone, found = seconds(work, Layout(1), hard), seconds(work, layout, hard)
    efficiency = sum(alone.values()) / layout.gpus / sum(found.values())
    return efficiency, {part: found[part] - alone[part] / layout.gpus for part in PARTS}
