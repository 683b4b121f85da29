"""What a filter stage keeps of a scored group: its rules, pure functions of rewards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmrl.config import FilterStage
from mmrl.modalities.adapter import Adapter
from mmrl.rewarding.run import total
from mmrl.training.rollouts.labelling import record_of
from mmrl.training.stages.pass_rates import Rate, rate_of
from mmrl.types import Group, Prompt, Sample


def set_rewards(weights: Mapping[str, float], groups: Sequence[Group]) -> None:
    """`sample.reward`: the weighted sum; None where one failed or none applies."""
    for sample in (s for g in groups for s in g.samples):
        sample.reward = total(sample, weights)


def keep(adapter: Adapter, options: FilterStage, group: Group) -> list[dict[str, Any]]:
    """The records of one group; samples without a reward are left out of every rule but `steps`."""
    if options.rule == "steps":
        return list(_steps(adapter, group.samples))
    scored = [(s.reward, s) for s in group.samples if s.reward is not None]
    scored.sort(key=lambda pair: (-pair[0], pair[1].index))
    if not scored:
        return []
    return list(
        {"pairs": _pairs, "rejection": _rejection, "difficulty": _difficulty}[options.rule](adapter, options, scored)
    )


Scored = list[tuple[float, Sample]]  # best first; among equals by index


def _pairs(adapter: Adapter, options: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """The best and the worst answer to one showing, where they differ enough: of the showings that were drawn for a
    prompt the one where they differ most."""
    some = max(_showings(adapter, scored), key=lambda some: some[0][0] - some[-1][0])
    (best, first), (worst, last) = some[0], some[-1]
    told_apart = not options.require_correct or worst < options.correct_at <= best
    if best - worst <= options.margin or not told_apart:
        return
    chosen, rejected = adapter.completion(first), adapter.completion(last)
    if chosen != rejected:  # a reward that is not a function of the answer may say both of one
        scores = {"reward_chosen": best, "reward_rejected": worst}
        yield {**_record(first.prompt), **adapter.shown_as(first), "chosen": chosen, "rejected": rejected, **scores}


def _showings(adapter: Adapter, scored: Scored) -> list[Scored]:
    """Samples apart by what they were shown; those of most prompts were all shown the same."""
    found: dict[str, Scored] = {}
    for reward, sample in scored:
        found.setdefault(json.dumps(adapter.shown_as(sample), sort_keys=True), []).append((reward, sample))
    return list(found.values())


def _rejection(adapter: Adapter, options: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """Every correct answer that is not a repetition, the best first."""
    seen: list[Any] = []
    for reward, sample in scored:
        answer, shown = adapter.completion(sample), adapter.shown_as(sample)
        if reward < options.correct_at or len(seen) == options.keep:
            return
        if (answer, shown) not in seen:
            seen.append((answer, shown))
            name = f"{sample.prompt.id}/{sample.index}"
            yield {**_record(sample.prompt), **shown, "id": name, "completion": answer, "reward": reward}


def _difficulty(adapter: Adapter, options: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """The prompt, where the share of correct answers and the number of the first one are inside their ranges."""
    prompt = scored[0][1].prompt
    rate = measured(Group(prompt, 0, [sample for _, sample in scored]), options)
    yield from with_rate(options, prompt, rate) if rate else ()


def measured(group: Group, options: FilterStage) -> Rate | None:
    """The pass rate of a group whose samples have their rewards."""
    samples = sorted(group.samples, key=lambda sample: sample.index)
    return rate_of([sample.reward for sample in samples], options.correct_at)


def with_rate(options: FilterStage, prompt: Prompt, rate: Rate) -> Iterator[dict[str, Any]]:
    """The record of a prompt whose rate is inside the ranges."""
    if options.low <= rate.pass_rate <= options.high and rate.attempts >= options.min_attempts:
        yield {**_record(prompt), "pass_rate": rate.pass_rate, "attempts": rate.attempts}


def _steps(adapter: Adapter, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """The paths of a tree, with the values of their steps."""
    for sample in samples:
        name = f"{sample.prompt.id}/{sample.index}"
        yield {**_record(sample.prompt), **adapter.shown_as(sample), "id": name, **record_of(sample)}


def _record(prompt: Prompt) -> dict[str, Any]:
    return {**prompt.record, "id": prompt.id, "prompt": prompt.text}
