"""Clauses of the adapter contract (see check) about rollouts and evaluations."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmrl.modalities.adapter import Adapter
from mmrl.reporting.artifacts import load_artifact, save_artifact
from mmrl.training.check_tools import (
    all_columns,
    same,
    same_artifacts,
    stored_logp,
)
from mmrl.types import Group, Prompt, Sample

# Of a discrete policy to say all of a rollout once more: less than that is no accident.
CHANCE = 1e-3


def roll_out(adapter: Adapter, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
    return adapter.rollout([Group(prompt, i) for i, prompt in enumerate(prompts)], n, 0, seed)


def complete_groups(groups: Sequence[Group], prompts: Sequence[Prompt], n: int) -> tuple[bool, str]:
    if [g.prompt.id for g in groups] != [p.id for p in prompts] or [g.index for g in groups] != list(
        range(len(groups))
    ):
        return False, (
            f"rollout returned groups {[(g.index, g.prompt.id) for g in groups]} for the prompts "
            f"{[p.id for p in prompts]}: return one group per given group, in order, with its prompt and index"
        )
    for group in groups:
        places = [s.index for s in group.samples]
        # A conversation that restarts makes a sample of each of its rows, which name their episode.
        episodes = {s.info.get("episode", s.index) for s in group.samples}
        if places != list(range(len(places))) or episodes != set(range(n)):
            return False, (
                f"group {group.index} has samples {places}, expected 0..{n - 1}: every sample of a group is compared "
                "with the others, so none may be missing"
            )
        for sample in group.samples:
            wrong = _wrong_sample(sample, group)
            if wrong:
                return False, f"sample {sample.index} of group {group.index} {wrong}"
    return True, f"{len(groups)} groups of {n}, {len(groups[0].samples[0].actions.logp)} actions in the first sample"


def _wrong_sample(sample: Sample, group: Group) -> str | None:
    trajectory = sample.trajectory
    if sample.prompt.id != group.prompt.id:
        return f"carries the prompt {sample.prompt.id!r}, not its group's {group.prompt.id!r}"
    if sample.artifact is None:
        return "has no artifact: rewards would have nothing to look at"
    if trajectory is None:
        return "has no trajectory: nothing can be replayed"
    if trajectory.logp.ndim != 1 or trajectory.logp.dtype != torch.float32:
        return f"has logp {tuple(trajectory.logp.shape)} {trajectory.logp.dtype}, expected [T] float32"
    if trajectory.mask.shape != trajectory.logp.shape or trajectory.mask.dtype != torch.bool:
        return f"has mask {tuple(trajectory.mask.shape)} {trajectory.mask.dtype}, expected [T] bool like logp"
    if not trajectory.mask.any():
        return "has no trained action: look at the mask"
    if not torch.isfinite(trajectory.logp[trajectory.mask]).all():
        return "has a log-probability that is not finite: look at the standard deviation of the last actions"
    return None


def repeats(
    adapter: Adapter, groups: Sequence[Group], prompts: Sequence[Prompt], n: int, seed: int
) -> tuple[bool, str]:
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        again = roll_out(adapter, prompts, n, seed)
    gap = _gap(groups, again)
    if gap == 0 and same_artifacts(groups, again):
        return True, "the same seed gives the same samples, whatever the global generator holds"
    return False, (
        f"the same (seed, step) gave samples that differ by {gap:.1e}: a resumed run would not be the run that was "
        "stopped. Draw every number from a generator seeded by (seed, step, prompt id, sample index), and look "
        "for dropout (eval mode) and for the global generator"
    )


def twice(adapter: Adapter, prompts: Sequence[Prompt], n: int, seed: int) -> tuple[bool, str]:
    """A step may ask a prompt twice: where a pass over the prompts ends, and when a group is replaced."""
    asked = [Group(prompt, 2 * i + draw, draw=draw) for i, prompt in enumerate(prompts) for draw in (0, 1)]
    groups = adapter.rollout(asked, n, 0, seed)
    firsts, seconds = groups[::2], groups[1::2]
    if not (_gap(firsts, seconds) == 0 and same_artifacts(firsts, seconds)):
        return True, "the second group of a prompt has noise of its own"
    samples = [sample for group in firsts for sample in group.samples]
    stored, mask = stored_logp(samples, all_columns(samples))
    if adapter.certain_logp > 0 and float(stored[mask].sum()) > math.log(CHANCE):
        return True, "the policy says the same again and again: check with other prompts"
    return False, (
        "a prompt that is asked twice in a step gave the same samples twice: seed the noise with `group.key`, not with "
        "the prompt's id"
    )


def storable(samples: Sequence[Sample]) -> tuple[bool, str]:
    """Samples are stored for the report, and whole rollouts when a run stops inside a step."""
    with tempfile.TemporaryDirectory() as place:
        for number, sample in enumerate(samples):
            name = save_artifact(sample.artifact, Path(place), str(number))
            if not same(sample.artifact, load_artifact(Path(place) / name)):
                return False, f"{name} read back is another {type(sample.artifact).__name__} than was stored"
    return True, f"{type(samples[0].artifact).__name__}, stored and read back"


def _gap(some: Sequence[Group], others: Sequence[Group]) -> float:
    """Largest difference of two rollouts over log-probabilities and stored tensors, relative where above 1."""
    gap = 0.0
    for a, b in zip((s for g in some for s in g.samples), (s for g in others for s in g.samples), strict=True):
        pairs: list[tuple[Tensor, Tensor | None]] = [(a.actions.logp, b.actions.logp)]
        pairs += [(a.actions.tensors[key], b.actions.tensors.get(key)) for key in a.actions.tensors]
        for x, y in pairs:
            if y is None or x.shape != y.shape:
                return float("inf")
            if x.numel():
                scale = x.double().abs().clamp(min=1)
                gap = max(gap, float(((x.double() - y.double()).abs() / scale).max()))
    return gap


def evaluation(adapter: Adapter, prompts: Sequence[Prompt], n: int, seed: int) -> tuple[bool, str]:
    first = adapter.evaluate(prompts, n, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        second = adapter.evaluate(prompts, n, seed)
    counts = [len(g.samples) for g in first]
    if counts != [n] * len(prompts):
        return False, f"evaluate returned {counts} samples per prompt, expected {n} for each of {len(prompts)}"
    if not same_artifacts(first, second):
        return False, (
            "the same seed gave other samples: scores before and after training could not be compared. Seed each "
            "sample's noise by (seed, prompt id, sample index)"
        )
    other = same_artifacts(first, adapter.evaluate(prompts, n, seed + 1))
    if adapter.deterministic_evaluation:
        if not other:
            return False, "another seed gave other samples, though the adapter says deterministic_evaluation"
        return True, "the same samples whatever the seed, as the adapter says"
    if other:
        return False, (
            "another seed gave the same samples: the seed is not used; where evaluation is greedy, say so with "
            "deterministic_evaluation = True"
        )
    return True, "the same seed gives the same samples, another seed others"
