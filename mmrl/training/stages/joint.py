"""Reinforcement learning beside distillation: a step's rewards, and the gradient of the policy's updates by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from mmrl.config import ConfigError, DistillStage, JointConfig
from mmrl.core.algorithm import Algorithm
from mmrl.core.step_preference import extremes, step_dpo
from mmrl.modalities.adapter import Adapter
from mmrl.training.cursor import Cursor, Sums
from mmrl.training.run import Run
from mmrl.training.stages.addends import Addend
from mmrl.training.stages.experience import Experience
from mmrl.training.stages.policy_gradient import PolicyGradient
from mmrl.training.stages.rows import replay_row
from mmrl.training.stages.together import missing, spare_sample, take_part
from mmrl.training.stages.update import MicroBatch
from mmrl.types import Group, Prompt, Sample

# A context in which the adapter is what log-probs are compared with.
Anchor = Callable[[], AbstractContextManager[None]]


class Joint:
    """algorithm: mmrl.training.stages.policy_gradient.fitting's. anchor: None is the policy that sampled. prompts: the
    stage's."""

    def __init__(
        self,
        run: Run,
        options: DistillStage,
        cursor: Cursor,
        algorithm: Algorithm,
        seed: int,
        anchor: Anchor | None = None,
        prompts: Sequence[Prompt] = (),
    ) -> None:
        assert options.joint is not None
        self.run, self.options, self.joint, self.anchor = run, options, options.joint, anchor
        self.prompts = prompts
        self.policy_gradient = PolicyGradient(run, options, cursor, algorithm, seed, prompts=prompts)

    def experience(self, groups: Sequence[Group], n_groups: int) -> Experience:
        """A step's groups as tensors, with their advantages."""
        found = self.policy_gradient.experience(groups, n_groups)
        if self.joint.objective == "step_dpo" and found.advantage.ndim == 2:
            name = self.policy_gradient.algorithm.advantage.name
            raise ConfigError(
                f"stage {self.options.name!r}: advantage={name!r} is of single actions; step_dpo compares whole "
                "samples: take one that has an advantage for each, such as global_std"
            )
        return found

    def update(self, experience: Experience, number: int) -> Addend:
        """The gradient of the `number`-th of the step's updates by rewards. Every process calls."""
        weight = self.joint.weight if self.joint.schedule == "weighted" else 1.0
        if self.joint.objective == "grpo":
            return self.policy_gradient.update(experience, number, scale=weight)
        chosen = self.policy_gradient.chosen(experience, number)
        pairs = extremes(
            experience.advantage, experience.counted & chosen[experience.batch.group], experience.batch.group
        )
        steps = float(_both(experience.mask, pairs).sum())
        total = self.run.processes.total(steps)
        parts = _parts(pairs, experience.mask.shape[1], self.options.micro_batch)
        own = preference(
            self.run.adapter, experience, parts, self.joint, anchor=self.anchor, scale=weight, total=max(total, 1.0)
        )
        more = missing(self.run, len(parts))

        def add(start: int) -> Iterator[MicroBatch]:
            yield from own.add(start)
            take_part(more, lambda: self._spare(experience.samples))

        return Addend(own.micros, add)

    def _spare(self, samples: Sequence[Sample]) -> Tensor:
        """What a micro-batch computes, of a single step."""
        adapter, first = self.run.adapter, torch.zeros(1, dtype=torch.int64)
        sample = spare_sample(adapter, samples, self.prompts)
        if self.anchor is not None:
            with self.anchor():
                adapter.logprobs([sample], first)
        return adapter.logprobs([sample], first).logp


# Micro-batches of (rows of better and worse samples [P, 2], steps).
Parts = Sequence[tuple[Tensor, Tensor]]


def _parts(pairs: Tensor, steps: int, micro_batch: int) -> Parts:
    """Of pairs [P, 2], all steps of some together, or where that is too much some steps of one."""
    widest = max(1, micro_batch // 2)  # steps of one pair
    columns = list(torch.arange(steps).split(widest)) if steps else []
    rows = list(pairs.split(max(1, widest // max(1, steps)))) if len(pairs) else []
    return [(some, where) for some in rows for where in columns]


def preference(
    adapter: Adapter,
    experience: Experience,
    parts: Parts,
    options: JointConfig,
    *,
    anchor: Anchor | None,
    scale: float,
    total: float,
) -> Addend:
    """`scale` times the gradient of the mean of step_dpo over steps.

    total: steps of all pairs of all processes. anchor: None takes the log-probs that were noted while sampling.
    """
    batch = experience.batch

    def add(start: int) -> Iterator[MicroBatch]:
        for number, (some, where) in enumerate(parts[start:], start):
            samples = [experience.samples[row] for row in some.flatten()]
            if anchor is None:
                known = batch.needed("logp_old", batch.logp_old)[some.flatten()][:, where]
            else:
                with anchor():
                    known = adapter.logprobs(samples, where).logp
            logp = adapter.logprobs(samples, where).logp
            shape = (len(some), 2, len(where))
            inside = _both(experience.mask, some)[:, where].to(logp.device)
            loss, margin = step_dpo(logp.view(shape), known.to(logp).view(shape), options.beta)
            loss = torch.where(inside, loss, 0.0).sum() / total
            if torch.isfinite(loss):
                (scale * loss).backward()
            right = (inside & (margin > 0)).sum() / total
            told = {"joint/loss": loss.detach(), "joint/right": right, "joint/margin": margin[inside].sum() / total}
            yield MicroBatch(number, float(loss.detach()), told, samples)

    return Addend(len(parts), add)


def _both(mask: Tensor, pairs: Tensor) -> Tensor:
    """[P, T] bool: steps that both samples of a pair are trained at."""
    return mask[pairs[:, 0]] & mask[pairs[:, 1]]


def joint_row(sums: Sums, updates: int) -> dict[str, Any]:
    """What so many updates by rewards were like: joint/loss, and of a preference joint/right, the share of steps at
    which the better sample is ahead, and joint/margin."""
    if not updates:
        return {}
    parts = sums.parts
    if "policy_loss" in parts:
        return {"joint/loss": parts["policy_loss"] / updates, **replay_row(sums, updates)}
    return {name: value / updates for name, value in parts.items() if name.startswith("joint/")}
