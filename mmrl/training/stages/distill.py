"""The stage of distillation: a few-step generator is drawn to the distribution of its teacher.

Its roles: `policy` is the generator, the reference its teacher, and `fake` a copy that is trained on what the generator
makes, so that teacher minus fake points to where the generator's samples are too rare.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mmrl.config import DistillStage
from mmrl.core import flow_match
from mmrl.core.distribution import dmd
from mmrl.core.registry import Hook
from mmrl.data.order import cyclic_indices
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.learner import NonFiniteError
from mmrl.training.policy import Policy
from mmrl.training.run import Run
from mmrl.training.run_folder import prompts_of
from mmrl.training.stages.base import Stage
from mmrl.training.stages.teacher import show_teacher
from mmrl.types import Group, Noised, Prompt, Sample


class Losses(NamedTuple):
    """Pure functions of tensors [b, ...] to losses [b].

    generator: of (its sample x0, differentiable; the teacher's x0 of it, noised; the fake score's). fake: of (velocity,
    differentiable; x0; noise).
    """

    generator: Callable[[Tensor, Tensor, Tensor], Tensor] = dmd
    fake: Callable[[Tensor, Tensor, Tensor], Tensor] = flow_match.matching_error


class Look(NamedTuple):
    """At which of their steps samples are made anew [b], and at which times [b] and noises they are looked at."""

    places: Tensor
    times: Tensor
    seeds: list[int]


class Distill(Stage[DistillStage]):
    """Distribution matching between a few-step policy and the model that it began as."""

    Options = DistillStage
    losses: ClassVar[Losses] = Losses()
    needs_reference = True

    def __init__(self, run: Run, options: DistillStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor)
        self.prompts = prompts_of(run, options.data_from)

    @property
    def rolled_out(self) -> Sequence[Prompt]:
        return self.prompts

    def updates(self) -> int:
        return sum(self.options.updates_in(step) for step in range(self.options.steps))

    def begin(self) -> None:
        """An adapter that cannot be distilled says so before anything is sampled."""
        adapter, none = self.run.adapter, torch.zeros(0)
        adapter.generated([], none)
        adapter.velocities([], none, [], clean=none, guidance=self.guidance)
        if self.options.teacher_steps is not None:
            show_teacher(self, self.options.teacher_steps, self.guidance)

    @property
    def guidance(self) -> float | None:
        """Of the teacher: what the stage says, or that with which the policy samples."""
        said = self.options.guidance
        return self.run.adapter.sampling_guidance if said is None else said

    # ---------------------------------------------------------------- one step

    def step(self) -> dict[str, Any]:
        """The fake score's updates on the samples of a rollout, then the policy's, where it is its turn."""
        began = time.monotonic()
        cursor, run = self.cursor, self.run
        order = self._order()
        drawn = self._drawn() if cursor.update < len(order) else []
        cursor.phase = "update"
        while cursor.update < len(order):
            self._update(order[cursor.update], drawn)
            cursor.end_update()
            run.point("update")
        samples = self.options.groups * self.options.samples
        cursor.samples += samples
        return {**self._row(order), "time/step": time.monotonic() - began}

    def _order(self) -> list[str]:
        """Who is updated in this step, one after the other."""
        step = self.cursor.step
        return ["fake"] * self.options.fake.updates_in(step) + ["policy"] * self.options.updates_in(step)

    def _drawn(self) -> list[Group]:
        """This process's share of the step's prompts, with samples: the same after a stop, as the policy is updated
        last."""
        options, run, step = self.options, self.run, self.cursor.step
        order = cyclic_indices(step * options.groups, options.groups, len(self.prompts), self.seed)
        groups = [Group(self.prompts[i], number, draw=order[:number].count(i)) for number, i in enumerate(order)]
        mine = groups[run.processes.rank :: run.processes.world]
        with run.sampling():
            return run.adapter.rollout(mine, options.samples, step, self.seed)

    def _update(self, name: str, groups: Sequence[Group]) -> None:
        """An optimizer step of a role over all samples of all processes."""
        cursor, run, learner = self.cursor, self.run, self.learners[name]
        pairs = [(group.key, sample) for group in groups for sample in group.samples]
        total = self.options.groups * self.options.samples
        loss_of = self._fake_loss if name == "fake" else self._policy_loss
        for number, start in enumerate(range(0, len(pairs), self.options.micro_batch)):
            if number < cursor.micro:
                continue
            part = pairs[start : start + self.options.micro_batch]
            loss = loss_of([sample for _, sample in part], self._look(name, part), total)
            if not math.isfinite(loss):
                ids = ", ".join(sample.prompt.id for _, sample in part[:8])
                raise NonFiniteError(
                    f"loss of {name} is {loss} at step {cursor.total_steps + 1}, prompts {ids}; lower its optim.lr, "
                    f"and go on with --resume --allow stages.{self.options.name}"
                )
            cursor.sums.add({name: loss})
            cursor.micro = number + 1
            run.point("micro")
        cursor.sums.note(f"norm/{name}", learner.step())
        if name == "policy":
            self.follow()

    def _look(self, name: str, part: Sequence[tuple[str, Sample]]) -> Look:
        """Depends on the step, the update and the sample alone."""
        options, cursor = self.options, self.cursor
        at = [seed_of(self.seed, cursor.step, cursor.update, key, sample.index) for key, sample in part]
        uniform = torch.stack([torch.rand(2, generator=torch.Generator().manual_seed(s)).double() for s in at])
        times = flow_match.TIMES.bind(Hook(options.times.name, options.times.options))
        early = options.early if name == "policy" else 1.0
        return Look(uniform[:, 0] * early, times(uniform[:, 1].clamp(1e-6, 1 - 1e-6)).float(), at)

    # ---------------------------------------------------------------- the two losses, each with its backward

    def _fake_loss(self, samples: Sequence[Sample], look: Look, total: int) -> float:
        """Flow matching of the fake score on what the policy makes."""
        with self.acting("policy"):
            clean = self.run.adapter.generated(samples, look.places)
        with self.acting("fake", gradient=True):
            seen = self.run.adapter.velocities(samples, look.times, look.seeds, clean=clean)
            loss = self.losses.fake(seen.velocity, seen.clean, seen.noise).sum() / total
            if torch.isfinite(loss):
                loss.backward()
        return float(loss.detach())

    def _policy_loss(self, samples: Sequence[Sample], look: Look, total: int) -> float:
        """What the policy makes, drawn to where its teacher would rather have it than the fake score."""
        clean = self.run.adapter.generated(samples, look.places)
        with self.acting("reference"):
            real = self._clean_of(samples, look, clean, self.guidance)
        with self.acting("fake"):
            fake = self._clean_of(samples, look, clean)
        loss = self.losses.generator(clean, real, fake).sum() / total
        if torch.isfinite(loss):
            loss.backward()
        return float(loss.detach())

    def _clean_of(self, samples: Sequence[Sample], look: Look, clean: Tensor, guidance: float | None = None) -> Tensor:
        """What whoever acts takes the samples for, once they are noised."""
        seen: Noised = self.run.adapter.velocities(
            samples, look.times, look.seeds, clean=clean.detach(), guidance=guidance
        )
        return flow_match.clean_of(seen.x, seen.velocity, look.times.to(seen.x.device))

    # ---------------------------------------------------------------- what is told

    def _row(self, order: Sequence[str]) -> dict[str, Any]:
        """`loss` is the policy's, null in a step in which it is not updated; `fake/*` are means over its updates."""
        sums, learners = self.cursor.sums.combined(self.run.processes), self.learners
        row: dict[str, Any] = {"loss": sums.parts.get("policy"), "fake/loss": sums.parts["fake"] / order.count("fake")}
        row |= {"grad_norm": sums.known.get("norm/policy"), "fake/grad_norm": sums.known["norm/fake"]}
        return row | {"lr": learners["policy"].rate, "fake/lr": learners["fake"].rate}
