"""The stage of distillation: a few-step generator is drawn to the distribution of its teacher.

Its roles: `policy` is the generator, the reference its teacher, `fake` a copy that is trained on what the generator
makes, so that teacher minus fake points to where the generator's samples are too rare; `heads`, with `adversary`, tell
its samples from real ones; `anchor`, with `joint`, is what a preference is measured against; `surrogate`, with the
option of that name, learns the rewards, and `slow` follows it.

A step is one rollout, and the turns of roles on it; what a role learns is an Addend. A subclass with another role gives
it to `make_roles`, its turn to `turns`, and what it adds to the generator's target to `directions`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmrl.config import ConfigError, DistillStage
from mmrl.core import flow_match
from mmrl.core.algorithm import Algorithm
from mmrl.core.distribution import descent, dmd_direction
from mmrl.core.registry import Hook
from mmrl.modalities.adapter import Unsupported
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.learner import NonFiniteError
from mmrl.training.policy import Policy
from mmrl.training.roles import Role
from mmrl.training.run import Run
from mmrl.training.stages.addends import Addend, chained
from mmrl.training.stages.adversary import Adversary, Noises
from mmrl.training.stages.experience import Experience, annotate
from mmrl.training.stages.joint import Joint, joint_row
from mmrl.training.stages.looking import Direction, Look, Made, Row, above
from mmrl.training.stages.policy_gradient import fitting
from mmrl.training.stages.reals import Reals
from mmrl.training.stages.rows import reward_row, scores_row, silent_share
from mmrl.training.stages.sampled import Sampled
from mmrl.training.stages.surrogate import Surrogate, advantages, surrogate_row
from mmrl.training.stages.teacher import show_teacher
from mmrl.training.stages.together import missing, spare_sample
from mmrl.training.stages.turns import Turn, turns_row
from mmrl.training.stages.update import MicroBatch
from mmrl.training.tensors import copy_into
from mmrl.types import Group, Sample


class Distill(Sampled[DistillStage]):
    """Distribution matching between a few-step policy and its teacher."""

    Options = DistillStage
    needs_reference = True

    def __init__(self, run: Run, options: DistillStage, policy: Policy, cursor: Cursor) -> None:
        algorithm = Algorithm()
        if options.joint:
            algorithm = fitting(options.joint.resolved, run.adapter, options.name)
            if not run.adapter.renoises:
                raise ConfigError(
                    f"stage {options.name!r}: joint learns from the log-probabilities of re-noise steps, which "
                    f"{type(run.adapter).__name__} does not take here; set model.sampling.kernel: renoise, with a plan "
                    "that trains steps"
                )
        if options.surrogate:
            algorithm = advantages(options.surrogate)
        super().__init__(run, options, policy, cursor, algorithm)
        self.levels = run.adapter.levels() if options.times_above else None
        self.reals = Reals(run, options, self.seed, self.guidance)
        self.joint: Joint | None = None
        if options.joint:
            anchor = partial(self.acting, "anchor") if options.joint.anchor else None
            self.joint = Joint(run, options, cursor, algorithm, self.seed, anchor, self.prompts)
        self.surrogate: Surrogate | None = None
        if options.surrogate:
            self.surrogate = Surrogate(run, options, cursor, self.seed, self.acting, self.prompts)

    def make_roles(self) -> list[Role]:
        roles, options, run = super().make_roles(), self.options.adversary, self.run
        self.adversary: Adversary | None = None
        if options is not None:
            self.adversary = Adversary(run.adapter, options, self.acting, self.seed, run.processes.device)
            roles.append(self.role("heads", options.heads, self.adversary.parameters))
        if self.options.surrogate and self.options.surrogate.clip > 0:
            leader = next(role for role in roles if role.name == "surrogate")
            roles.append(self.follower("slow", self.options.surrogate.following, leader))
        return roles

    def updates(self) -> int:
        return sum(self.options.updates_in(step) for step in range(self.options.steps))

    def prepare_reference(self) -> None:
        options = self.options
        if options.teacher is None:
            super().prepare_reference()
            return
        try:
            self.run.adapter.take_reference(options.teacher, options.components)
        except Unsupported as error:
            raise ConfigError(f"stage {options.name!r}: {error}") from None

    def begin(self) -> None:
        """An adapter that cannot be distilled says so before anything is sampled."""
        adapter, none = self.run.adapter, torch.zeros(0)
        adapter.generated([], none)
        adapter.velocities([], none, [], clean=none, guidance=self.guidance)
        if self.joint:
            self.joint.policy_gradient.refuse_broken_adapter(self.prompts)
        if self.surrogate:  # which begins as the teacher, whatever the policy does
            for name in self.roles.keys() & {"surrogate", "slow"}:
                copy_into(self.roles[name].weights, adapter.reference_parameters(), f"role {name}")
        if self.options.teacher_steps is not None:
            show_teacher(self, self.options.teacher_steps, self.guidance)

    @property
    def guidance(self) -> float | None:
        """Of the teacher: what the stage says, or that with which the policy samples."""
        said = self.options.guidance
        return self.run.adapter.sampling_guidance if said is None else said

    # ---------------------------------------------------------------- one step

    def step(self) -> dict[str, Any]:
        """A rollout, then every turn on it."""
        began = time.monotonic()
        cursor, run = self.cursor, self.run
        groups = self.rollouts.next()
        rolled = time.monotonic()
        experience = None
        if self.joint:
            experience = self.joint.experience(groups, self.rollouts.n_groups)
        elif self.surrogate:
            experience = self.surrogate.experience(groups, self.rollouts.n_groups)
        if experience is not None:
            annotate(experience)
        if self.options.adversary and self.options.adversary.heads.updates_in(cursor.step):
            self.reals.begin(groups or self._blank_groups(), cursor.step, partial(self.acting, "reference"))
        turns = self.turns(groups, experience)
        while cursor.update < len(turns):
            self._take(turns[cursor.update])
            cursor.end_update()
            run.point("update")
        row = self._row(turns, groups, experience)
        self.keep_samples(groups)
        cursor.samples += self.options.groups * self.options.samples
        if experience is not None:
            cursor.actions += int(run.processes.total(float(experience.mask.sum())))
        return row | {"time/update": time.monotonic() - rolled, "time/step": time.monotonic() - began}

    def turns(self, groups: Sequence[Group], experience: Experience | None) -> list[Turn]:
        """Who is updated in this step, one after the other. Rewards come before the teacher: the policy is then the one
        that sampled. experience: None without rewards."""
        options, step = self.options, self.cursor.step
        turns = [Turn("fake", partial(self.addend, groups, self._fake_loss), "fake")] * options.fake.updates_in(step)
        if options.adversary:
            train = Turn("heads", partial(self.addend, groups, self._heads_loss), "heads")
            turns += [train] * options.adversary.heads.updates_in(step)
        if self.joint and experience is not None:
            for number in range(options.rewarded_in(step)):
                rewards = partial(self.joint.update, experience, number)
                pulled = partial(self.addend, groups, self._policy_loss)
                both = partial(_sum, pulled, rewards) if options.weighted_in(step) else rewards
                turns.append(Turn("policy", both, "policy" if options.weighted_in(step) else "joint"))
        if self.surrogate and experience is not None:
            learn = Turn("surrogate", partial(self.surrogate.update, experience, groups), "surrogate")
            turns += [learn] * self.surrogate.options.role.updates_in(step)
        pull = Turn("policy", partial(self.addend, groups, self._policy_loss), "policy")
        return turns + [pull] * options.pulled_in(step)

    def _take(self, turn: Turn) -> None:
        """An optimizer step of a role."""
        cursor, name = self.cursor, turn.role
        for part in turn.addend().add(cursor.micro):
            if not math.isfinite(part.loss):
                raise NonFiniteError(self.non_finite(f"loss of {name} is {part.loss}", part.samples))
            cursor.sums.add(part.metrics)
            cursor.micro = part.number + 1
            self.run.point("micro")
        norm = self.learners[name].step()
        cursor.sums.note(f"norm/{turn.loss}", max(norm, cursor.sums.known.get(f"norm/{turn.loss}", 0.0)))
        self.follow(name)

    def addend(self, groups: Sequence[Group], loss_of: Callable[[Sequence[Row], float], Mapping[str, float]]) -> Addend:
        """A loss over all samples of a step, with its backward; loss_of: some of them, and one over how many all are,
        to parts of the mean loss by name."""
        rows = [Row(group, sample) for group in groups for sample in group.samples]
        size, share = self.options.micro_batch, 1 / (self.options.groups * self.options.samples)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        more = missing(self.run, len(parts))

        def add(start: int) -> Any:
            for number, part in enumerate(parts[start:], start):
                told = loss_of(part, share)
                yield MicroBatch(number, sum(told.values()), told, [row.sample for row in part])
            for _ in range(more):
                loss_of(rows[:1] or self._blank_rows(), 0.0)

        return Addend(len(parts), add)

    def _blank_groups(self) -> list[Group]:
        """What a process without samples takes part with, where weights are divided."""
        return [Group(self.prompts[0], 0)] if self.run.adapter.shards is not None else []

    def _blank_rows(self) -> list[Row]:
        return [Row(group, spare_sample(self.run.adapter, (), [group.prompt])) for group in self._blank_groups()]

    # ---------------------------------------------------------------- how samples are looked at

    def look(self, rows: Sequence[Row], early: float = 1.0, late: float = 1.0, what: str = "") -> Look:
        """Depends on the step, the update and the sample alone. early, late: the share of the sampler's steps, from the
        first or to the last. what: times of the adversary are other ones."""
        options, cursor = self.options, self.cursor
        names = [(row.group.key, row.sample.index, *([what] if what else [])) for row in rows]
        at = [seed_of(self.seed, cursor.step, cursor.update, *name) for name in names]
        uniform = torch.stack([torch.rand(2, generator=torch.Generator().manual_seed(s)).double() for s in at])
        section = options.adversary.times if what and options.adversary else options.times
        times = flow_match.TIMES.bind(Hook(section.name, section.options))(uniform[:, 1].clamp(1e-6, 1 - 1e-6))
        places = uniform[:, 0] * early if late == 1 else 1 - late * (1 - uniform[:, 0])
        if self.levels is not None and not what:
            times = above(times, self.levels.to(times)[(places * len(self.levels)).long()])
        return Look(places, times.float(), at)

    def _late(self, rows: Sequence[Row]) -> Look:
        assert self.options.adversary is not None
        return self.look(rows, late=self.options.adversary.late, what="adversary")

    def clean_of(
        self, name: str, samples: Sequence[Sample], look: Look, clean: Tensor, guidance: float | None = None
    ) -> Tensor:
        """What a role takes these ends of samples for, once they are noised: [b, ...] without gradient."""
        with self.acting(name):
            seen = self.run.adapter.velocities(samples, look.times, look.seeds, clean=clean.detach(), guidance=guidance)
        return flow_match.clean_of(seen.x, seen.velocity, look.times.to(seen.x.device))

    # ---------------------------------------------------------------- what roles learn, each with its backward

    def _fake_loss(self, rows: Sequence[Row], share: float) -> dict[str, float]:
        """Flow matching of the fake score on what the policy makes."""
        samples, look = [row.sample for row in rows], self.look(rows)
        with self.acting("policy"):
            clean = self.run.adapter.generated(samples, look.places)
        with self.acting("fake", gradient=True):
            seen = self.run.adapter.velocities(samples, look.times, look.seeds, clean=clean)
            loss = flow_match.matching_error(seen.velocity, seen.clean, seen.noise).sum() * share
            if torch.isfinite(loss):
                loss.backward()
        return {"fake": float(loss.detach())}

    def _heads_loss(self, rows: Sequence[Row], share: float) -> dict[str, float]:
        """The heads, between what the policy makes at its late steps and as many real samples."""
        assert self.adversary is not None
        samples, look = [row.sample for row in rows], self._late(rows)
        with self.acting("policy"):
            clean = self.run.adapter.generated(samples, look.places)
        loss = self.adversary.train(samples, clean, self.reals.of(rows), Noises(look.times, look.seeds)).sum() * share
        if torch.isfinite(loss):
            loss.backward()
        return {"heads": float(loss.detach())}

    def _policy_loss(self, rows: Sequence[Row], share: float) -> dict[str, float]:
        """What the policy makes at its early steps, drawn along all directions; at its late ones by the heads."""
        samples, look = [row.sample for row in rows], self.look(rows, early=self.options.early)
        clean = self.run.adapter.generated(samples, look.places)
        real = self.clean_of("reference", samples, look, clean, self.guidance)
        made = Made(clean, real, lambda name, guidance=None: self.clean_of(name, samples, look, clean, guidance))
        direction = torch.stack([found(made) for found in self.directions()]).sum(0)
        loss = descent(clean, direction).sum() * share
        if torch.isfinite(loss):
            loss.backward()
        told = {"policy": float(loss.detach())}
        if self.adversary:
            told["adversary"] = self._adversarial_loss(rows, share)
        return told

    def directions(self) -> list[Direction]:
        """What draws the policy: distribution matching, and the surrogate."""
        matching: list[Direction] = [lambda made: dmd_direction(made.clean, made.real, made.of("fake"))]
        return matching + (self.surrogate.directions(self.guidance) if self.surrogate else [])

    def _adversarial_loss(self, rows: Sequence[Row], share: float) -> float:
        assert self.adversary is not None
        samples, look = [row.sample for row in rows], self._late(rows)
        clean = self.run.adapter.generated(samples, look.places)
        loss, pull = self.adversary.pull(samples, clean, Noises(look.times, look.seeds))
        if not bool(torch.isfinite(loss).all() & torch.isfinite(pull).all()):
            return math.nan
        clean.backward(self.adversary.options.weight * share * pull)
        return float(loss.sum()) * share

    # ---------------------------------------------------------------- what is told

    def _row(self, turns: Sequence[Turn], groups: Sequence[Group], experience: Experience | None) -> dict[str, Any]:
        run, updates = self.run, self.options.rewarded_in(self.cursor.step)
        sums = self.cursor.sums.combined(run.processes)
        row = turns_row(turns, sums, self.learners)
        if experience is not None:
            row |= reward_row(experience, run.processes) | scores_row(groups, run.weights, run.processes)
            row["group/zero_variance"] = silent_share(experience, run.processes)
            row |= joint_row(sums, updates) | surrogate_row(sums)
        return row | {k: v for k, v in sums.known.items() if k.startswith(("time/", "rollout/"))}


def _sum(*addends: Callable[[], Addend]) -> Addend:
    return chained([made() for made in addends])
