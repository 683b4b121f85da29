"""The stage that learns on the forward process: rollout, rewards, advantages, then samples noised anew.

Groups, rewards and advantages are those of every stage that samples; the objective is one of mmrl.core's that needs no
log-probability. The policy that samples is a slow copy of the one that is trained, the role `old`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmrl.config import ConfigError, ForwardProcessStage, RoleConfig
from mmrl.core.filter import zero_variance_share
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.learner import NonFiniteError
from mmrl.training.policy import Policy
from mmrl.training.roles import Role
from mmrl.training.rollouts.collecting import Collector
from mmrl.training.rollouts.hints import check_hints
from mmrl.training.rollouts.queue import Rollouts
from mmrl.training.run import Run
from mmrl.training.run_folder import prompts_of
from mmrl.training.stages.base import Stage
from mmrl.training.stages.experience import Experience, annotate
from mmrl.training.stages.forward_update import Draws, Others, forward_gradient
from mmrl.training.stages.rows import monitor_row, reward_row, tell_empty
from mmrl.training.stages.update import MicroBatch, groups_of_update, plan_update
from mmrl.types import Group, Prompt


class ForwardProcess(Stage[ForwardProcessStage]):
    """Reinforcement learning on samples that are noised anew."""

    Options = ForwardProcessStage

    def __init__(self, run: Run, options: ForwardProcessStage, policy: Policy, cursor: Cursor) -> None:
        self.algorithm = options.resolved.with_defaults(*run.adapter.default_clip)
        if options.objective == "dgpo":  # a group counts once, as its logit does
            self.algorithm = replace(self.algorithm, aggregate="prompt_mean")
        super().__init__(run, options, policy, cursor)
        self.prompts = prompts_of(run, options.data_from)
        if not any(run.weights.values()):
            raise ConfigError(f"stage {options.name!r}: every reward has weight 0: nothing would be learned")
        if options.hints:
            check_hints(self.prompts, options.hints.reward, list(run.weights))
        if self.needs_reference and "reference" not in run.adapter.provides:
            raise ConfigError(
                f"stage {options.name!r}: objective {options.objective} with reference_coef={options.reference_coef:g} "
                f"compares with the reference, which {type(run.adapter).__name__} does not provide (Adapter.provides)"
            )
        self.rollouts = Rollouts(run, options, cursor, Collector(run, options, self.algorithm, self.prompts, cursor))

    def make_roles(self) -> list[Role]:
        return [*super().make_roles(), self.role("old", RoleConfig(follow=self.options.follow))]

    @property
    def needs_reference(self) -> bool:
        return self.options.objective == "dgpo" or self.options.reference_coef > 0

    @property
    def rolled_out(self) -> Sequence[Prompt]:
        return self.prompts

    def updates(self) -> int:
        return self.options.steps * self.options.updates * self.options.epochs

    @property
    def done(self) -> bool:
        return super().done or self.rollouts.exhausted

    @property
    def why_done(self) -> str:
        return f"all {len(self.prompts)} prompts have retired (curriculum.retire_at)"

    def begin(self) -> None:
        """An adapter that noises no samples says so before anything is sampled."""
        self.run.adapter.velocities([], torch.zeros(0), [])

    # ---------------------------------------------------------------- the policy that samples

    def as_old(self) -> AbstractContextManager[None]:
        """Inside, the adapter is the old policy."""
        return self.acting("old")

    def _sampled_by_policy(self, number: int) -> bool:
        """Whether the policy that sampled is the one that the update begins with."""
        step = self.cursor.step
        return number == 0 and (step == 0 or self.options.kept(step - 1) == 0)

    # ---------------------------------------------------------------- one step

    def step(self) -> dict[str, Any]:
        """Everything between two prompts."""
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        with self.as_old():
            groups = self.rollouts.next()
        rolled = time.monotonic()
        experience = self.experience(groups)
        annotate(experience)
        while cursor.update < options.updates * options.epochs:
            self._update(experience, groups, cursor.update)
            cursor.end_update()
            run.point("update")
        row = self._row(experience, groups)
        self._keep_samples(groups)
        self.follow()  # behind the last point: a resume comes here once
        if row["loss"] is None:
            tell_empty(cursor.total_steps + 1, run.processes)
        cursor.samples += int(run.processes.total(len(experience.samples)))
        cursor.actions += int(run.processes.total(float(experience.mask.sum())))
        return row | {"time/update": time.monotonic() - rolled, "time/step": time.monotonic() - began}

    def experience(self, groups: list[Group]) -> Experience:
        """A step's groups as tensors, each draw an action, with their advantages."""
        options, run = self.options, self.run
        found = Experience.of(
            groups,
            dict(run.weights),
            self.algorithm,
            n_groups=self.rollouts.n_groups,
            reduce=run.processes.reduce,
            step=self.cursor.step,
            shuffle=seed_of(self.seed, "shuffle", self.cursor.step) if options.shuffle_rewards else None,
            draws=options.draws,
            # Away from the old policy nft pulls back what is neither good nor bad; so does a reference.
            everyone=options.objective == "nft" or options.reference_coef > 0,
        )
        if found.advantage.ndim == 2:
            raise ConfigError(
                f"stage {options.name!r}: advantage={self.algorithm.advantage.name!r} is of single actions; a "
                "forward_process stage has one of each sample, such as global_std"
            )
        return found

    def _update(self, experience: Experience, groups: Sequence[Group], number: int) -> None:
        """One optimizer step over an even share of the groups."""
        options, cursor, run, learner = self.options, self.cursor, self.run, self.learners["policy"]
        epoch, part = divmod(number, options.updates)
        chosen = groups_of_update(
            experience.batch.n_groups, options.updates, part, seed_of(self.seed, cursor.step, epoch)
        )
        update = plan_update(experience, self.algorithm, chosen)
        draws = Draws.of(groups, options, seed_of(self.seed, "draws", cursor.step, epoch))
        others = Others(
            None if self._sampled_by_policy(number) else self.as_old,
            run.adapter.reference if self.needs_reference else None,
        )
        for micro in forward_gradient(run.adapter, update, draws, options, others, start=cursor.micro):
            self._refuse_non_finite(micro)
            cursor.sums.add({**micro.metrics, "loss": micro.loss})
            cursor.micro = micro.number + 1
            run.point("micro")
        norm = learner.step()
        cursor.sums.note("grad_norm", max(norm, cursor.sums.known.get("grad_norm", 0.0)))

    # ---------------------------------------------------------------- what is told

    def _row(self, experience: Experience, groups: Sequence[Group]) -> dict[str, Any]:
        options, cursor, processes, batch = self.options, self.cursor, self.run.processes, experience.batch
        row = reward_row(experience, processes) | monitor_row(groups, self.run.weights, processes)
        silent = zero_variance_share(
            experience.advantage, experience.valid, batch.group, batch.n_groups, processes.reduce
        )
        parts, known = cursor.sums.combined(processes).parts, cursor.sums.known
        row["group/zero_variance"] = float(silent)
        updates = options.updates * options.epochs
        row["loss"] = parts.get("loss", 0.0) / updates if processes.any(bool(groups)) else None
        count = max(parts.get("draws", 0.0), 1.0)
        row |= {f"forward/{k}": value / count for k, value in parts.items() if k not in ("loss", "draws")}
        row["old/kept"] = options.kept(cursor.step)
        row["grad_norm"], row["lr"] = known.get("grad_norm", 0.0), self.learners["policy"].rate
        return row | {k: v for k, v in known.items() if k.startswith("time/")}

    def _keep_samples(self, groups: list[Group]) -> None:
        run, report, step = self.run, self.run.config.report, self.cursor.total_steps + 1
        if report.samples_every and (step % report.samples_every == 0 or step == 1):
            run.keep(f"step_{step:06d}", groups, report.groups)

    def _refuse_non_finite(self, part: MicroBatch) -> None:
        if not math.isfinite(part.loss):
            groups = [Group(sample.prompt, i, [sample]) for i, sample in enumerate(part.samples)]
            where = self.run.keep_offending(groups, f"loss is {part.loss}")
            raise NonFiniteError(
                f"loss is {part.loss} at step {self.cursor.total_steps + 1}: stopped before it reached the weights. "
                f"The samples behind it are {where}; lower optim.lr, and go on with --resume --allow "
                f"stages.{self.options.name}"
            )

    # ---------------------------------------------------------------- a part of a checkpoint

    def close_step(self) -> None:
        self.rollouts.drop()

    def state(self) -> dict[str, Any]:
        return {"rollouts": self.rollouts.state()}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        self.rollouts.load(state["rollouts"])

    def save_own(self, folder: Path) -> None:
        self.rollouts.save(folder)

    def load_own(self, folder: Path) -> None:
        self.rollouts.load_groups(folder)
