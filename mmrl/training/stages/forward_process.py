"""The stage that learns on the forward process: rollout, rewards, advantages, then samples noised anew.

Groups, rewards and advantages are those of every stage that samples; the objective is one of mmrl.core's that needs no
log-probability. The policy that samples is a slow copy of the one that is trained: the role `old`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mmrl.config import ConfigError, ForwardProcessStage
from mmrl.core.filter import zero_variance_share
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.learner import NonFiniteError
from mmrl.training.policy import Policy
from mmrl.training.run import Run
from mmrl.training.stages.experience import Experience, annotate
from mmrl.training.stages.forward_update import Draws, Others, forward_gradient, pairs_of
from mmrl.training.stages.rows import reward_row, scores_row, tell_empty
from mmrl.training.stages.sampled import Sampled
from mmrl.training.stages.together import missing, spare_sample
from mmrl.training.stages.update import groups_of_update, plan_update
from mmrl.types import Group


class ForwardProcess(Sampled[ForwardProcessStage]):
    """Reinforcement learning on samples that are noised anew; the role `old` samples."""

    Options = ForwardProcessStage

    def __init__(self, run: Run, options: ForwardProcessStage, policy: Policy, cursor: Cursor) -> None:
        # An adapter's own range is of its sampler's log-probabilities, which are not in here.
        algorithm = options.resolved.with_defaults(*options.own_clip)
        if options.objective == "dgpo":  # a group counts once, as its logit does
            algorithm = replace(algorithm, aggregate="prompt_mean")
        super().__init__(run, options, policy, cursor, algorithm)
        if self.needs_reference and "reference" not in run.adapter.provides:
            raise ConfigError(
                f"stage {options.name!r}: objective {options.objective} with reference_coef={options.reference_coef:g} "
                f"compares with the reference, which {type(run.adapter).__name__} does not provide (Adapter.provides)"
            )

    @property
    def needs_reference(self) -> bool:
        return self.options.objective == "dgpo" or self.options.reference_coef > 0

    def begin(self) -> None:
        """An adapter that noises no samples, or tells no times, says so before anything is sampled."""
        self.run.adapter.velocities([], torch.zeros(0), [])
        Draws.of([], self.options, 0, self.run.adapter)

    def _sampled_by_policy(self, number: int) -> bool:
        """Whether the policy that sampled is the one that the update begins with."""
        old = self.roles["old"].weights
        moved = not all(torch.equal(p, old[name]) for name, p in self.policy.parameters.items())
        return number == 0 and not self.run.processes.any(moved)  # each may hold other rows

    # ---------------------------------------------------------------- one step

    def step(self) -> dict[str, Any]:
        """Everything between two prompts."""
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        with self.acting("old"):
            groups = self.rollouts.next()
        rolled = time.monotonic()
        experience = self.experience(groups)
        annotate(experience)
        while cursor.update < options.updates * options.epochs:
            self._update(experience, groups, cursor.update)
            cursor.end_update()
            run.point("update")
        row = self._row(experience, groups)
        self.keep_samples(groups)
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
            # Away from the old policy nft pulls back what is neither good nor bad; so do a reference and an average.
            everyone=options.objective == "nft" or options.reference_coef > 0 or options.ema_coef > 0,
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
        seed = seed_of(self.seed, "draws", cursor.step, epoch)
        draws = Draws.of(groups, options, seed, run.adapter)
        others = Others(
            None if self._sampled_by_policy(number) else partial(self.acting, "old"),
            run.adapter.reference if self.needs_reference else None,
            partial(self.acting, "ema") if options.ema_coef > 0 else None,
        )
        more = missing(run, len(pairs_of(update, options.draws, options.micro_batch)))
        own = (sample for group in groups for sample in group.samples)
        spare = spare_sample(run.adapter, own, self.prompts) if more else None
        for micro in forward_gradient(run.adapter, update, draws, options, others, cursor.micro, more, spare):
            if not math.isfinite(micro.loss):
                raise NonFiniteError(self.non_finite(f"loss is {micro.loss}", micro.samples))
            cursor.sums.add({**micro.metrics, "loss": micro.loss})
            cursor.micro = micro.number + 1
            run.point("micro")
        norm = learner.step()
        cursor.sums.note("grad_norm", max(norm, cursor.sums.known.get("grad_norm", 0.0)))

    # ---------------------------------------------------------------- what is told

    def _row(self, experience: Experience, groups: Sequence[Group]) -> dict[str, Any]:
        options, cursor, processes, batch = self.options, self.cursor, self.run.processes, experience.batch
        row = reward_row(experience, processes) | scores_row(groups, self.run.weights, processes)
        silent = zero_variance_share(
            experience.advantage, experience.valid, batch.group, batch.n_groups, processes.reduce
        )
        parts, known = cursor.sums.combined(processes).parts, cursor.sums.known
        row["group/zero_variance"] = float(silent)
        updates = options.updates * options.epochs
        row["loss"] = parts.get("loss", 0.0) / updates if processes.any(bool(groups)) else None
        count = max(parts.get("draws", 0.0), 1.0)
        row |= {f"forward/{k}": value / count for k, value in parts.items() if k not in ("loss", "draws")}
        row["old/kept"] = options.following.kept_behind(self.roles["old"].seen + 1)
        row["grad_norm"], row["lr"] = known.get("grad_norm", 0.0), self.learners["policy"].rate
        return row | {k: v for k, v in known.items() if k.startswith("time/")}
