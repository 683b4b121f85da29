"""A reinforcement-learning step's row of metrics.jsonl, over all processes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.config import GrpoStage
from mmrl.core.filter import zero_variance_share
from mmrl.rewarding.pair_counts import pair_counts
from mmrl.rewarding.run import monitor_invalid
from mmrl.rewarding.statuses import status_counts
from mmrl.training.cursor import Cursor, Sums
from mmrl.training.evaluation.conversations import conversation_metrics
from mmrl.training.processes import Processes
from mmrl.training.stages.experience import Experience, per_sample
from mmrl.types import Group

LARGEST = "rollout/ratio_max"
OFF = "rollout/actions"  # how many the sums of the other "rollout/..." are over


def tell_empty(step: int, processes: Processes) -> None:
    """Warn of a step of which nothing could be read, and whose row therefore has no loss."""
    if processes.is_main:
        warnings.warn(f"step {step}: none of its records can be read: nothing is learned in it", stacklevel=3)


def reward_row(experience: Experience, processes: Processes) -> dict[str, Any]:
    """reward/mean, reward/std (null where no sample has a reward), reward/<name>, reward/invalid."""
    valid, total = experience.valid, processes.total
    n, everyone = total(int(valid.sum())), total(len(experience.samples))
    mean = total(float(experience.reward[valid].sum())) / max(n, 1)
    square = total(float(((experience.reward[valid] - mean) ** 2).sum()))
    row: dict[str, Any] = {"reward/mean": mean if n else None, "reward/std": (square / n) ** 0.5 if n else None}
    for f, name in enumerate(experience.names):
        known = experience.known[:, f]
        count, summed = total(int(known.sum())), total(float(experience.scores[known, f].sum()))
        row[f"reward/{name}"] = summed / count if count else None
    row["reward/invalid"] = (everyone - n) / max(everyone, 1)
    return row


def monitor_row(groups: Sequence[Group], weights: Mapping[str, float], processes: Processes) -> dict[str, float]:
    """reward/<name>/invalid of each monitor (a reward of weight 0): the share of samples on which it failed. They have
    their rewards all the same."""
    everyone = processes.total(sum(len(group.samples) for group in groups))
    counts = monitor_invalid(groups, weights)
    return {f"reward/{name}/invalid": processes.total(count) / max(everyone, 1) for name, count in counts.items()}


def pair_row(groups: Sequence[Group], names: Sequence[str], processes: Processes) -> dict[str, float]:
    """Of each reward that compares: reward/<name>/failed, the share of its pairs without a verdict; /agreed, of pairs
    in which both orders say the same, where both were asked; /first, the mean share of what was shown first, 0.5 for a
    judge that does not go by the place."""
    told = processes.gather([pair_counts(groups, name) for name in names])
    row: dict[str, float] = {}
    for name, counts in zip(names, zip(*told)):
        judged, failed, doubled, agreed, first = map(sum, zip(*counts))
        if judged or failed:
            row[f"reward/{name}/failed"] = failed / (judged + failed)
        if doubled:
            row[f"reward/{name}/agreed"] = agreed / doubled
        if judged:
            row[f"reward/{name}/first"] = first / judged
    return row


def status_row(groups: Sequence[Group], names: Sequence[str], processes: Processes) -> dict[str, float]:
    """Of each reward that says what became of a sample (of its program, say): reward/<name>/status/<word>, the share of
    the samples of that status, among those that have one."""
    told = processes.gather([dict(status_counts(groups, name)) for name in names])
    row: dict[str, float] = {}
    for name, parts in zip(names, zip(*told)):
        counts = sum(map(Counter, parts), Counter[str]())
        row |= {f"reward/{name}/status/{word}": count / counts.total() for word, count in sorted(counts.items())}
    return row


def scores_row(groups: Sequence[Group], weights: Mapping[str, float], processes: Processes) -> dict[str, Any]:
    """What the scores of a step's samples tell beside the reward itself: monitors, pairs, statuses."""
    names = list(weights)
    return {
        **monitor_row(groups, weights, processes),
        **pair_row(groups, names, processes),
        **status_row(groups, names, processes),
    }


def grpo_row(experience: Experience, options: GrpoStage, cursor: Cursor, processes: Processes) -> dict[str, Any]:
    """Rewards, conversations, the share of groups without signal, and what the updates were like.

    `loss` is the mean over the step's updates, null where nothing was sampled; how far the sampler's log-probs are off
    is that over their actions, and the largest ratio of all.
    """
    row = reward_row(experience, processes)
    samples = experience.samples
    if options.ahead:
        age = processes.total(sum(cursor.step - s.version for s in samples))
        row["rollout/age"] = age / max(processes.total(len(samples)), 1)
    row |= {f"env/{name}": value for name, value in conversation_metrics(samples, processes).items()}
    row["group/zero_variance"] = silent_share(experience, processes)
    sums, updates = cursor.sums.combined(processes), options.updates * options.epochs
    parts, known = sums.parts, sums.known
    row["loss"] = parts.get("policy_loss", 0.0) / updates if processes.any(bool(samples)) else None
    if options.expert:
        row["expert/loss"] = parts["expert/loss"] / updates if "expert/loss" in parts else None
    row |= replay_row(sums, updates)
    row["grad_norm"] = known.get("grad_norm", 0.0)
    return row | {k: v for k, v in known.items() if k.startswith(("time/", "rollout/"))}


def replay_row(sums: Sums, updates: int) -> dict[str, Any]:
    """What so many updates of a step were like on whose actions there is a ratio: means over their actions."""
    parts, actions = sums.parts, max(sums.parts.get("actions", 0.0), 1.0)
    row: dict[str, Any] = {k: parts[k] / actions for k in ("kl", "entropy") if k in parts}
    row |= {k: value / updates for k, value in parts.items() if k.startswith("term/")}
    row |= {k: parts.get(k, 0.0) / actions for k in ("clip/low", "clip/high")}
    row["ratio/max_dev"] = parts.get("ratio/max_dev", 0.0)
    off = {k: value for k, value in parts.items() if k.startswith("rollout/") and k != OFF}
    return row | {k: value / max(parts[OFF], 1.0) for k, value in off.items()}


def silent_share(experience: Experience, processes: Processes) -> float:
    """Of the groups, those whose samples have no advantage over one another."""
    batch = experience.batch
    largest = per_sample(experience.advantage, batch.mask)
    found = zero_variance_share(largest, experience.valid, batch.group, batch.n_groups, processes.reduce)
    return float(found)
