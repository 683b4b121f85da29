"""The stage of reinforcement learning: rollout, rewards, advantages, replay, loss, updates.

The algorithm itself is mmrl.core; here are its inputs (who samples which groups) and its place in the loop.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from mmrl.config import ExpertConfig, GrpoStage, resolve_algorithm
from mmrl.core.resolving import needs_reference
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.learner import NonFiniteError
from mmrl.training.policy import Policy
from mmrl.training.rollouts.branching import REWARD as TREE
from mmrl.training.run import Run
from mmrl.training.stages.experience import Experience, annotate
from mmrl.training.stages.expert import expert_gradient, share
from mmrl.training.stages.policy_gradient import PolicyGradient, fitting
from mmrl.training.stages.readable import Readable
from mmrl.training.stages.rows import grpo_row, scores_row, tell_empty
from mmrl.training.stages.sampled import Sampled
from mmrl.training.stages.sft import record_prompt
from mmrl.training.stages.update import MicroBatch
from mmrl.types import Group


class Grpo(Sampled[GrpoStage]):
    """Reinforcement learning with groups of samples per prompt."""

    Options = GrpoStage

    def __init__(self, run: Run, options: GrpoStage, policy: Policy, cursor: Cursor) -> None:
        algorithm = fitting(resolve_algorithm(options.algorithm), run.adapter, options.name)
        super().__init__(run, options, policy, cursor, algorithm)
        if options.tree:  # an adapter that makes no single steps says so
            run.adapter.next_steps([], [], greedy=True, end=options.tree.step_end, max_tokens=1)
        self.replays = options.replays_old(run.adapter.precision != torch.float32)
        self.policy_gradient = PolicyGradient(run, options, cursor, algorithm, self.seed, self.replays, self.prompts)
        self.readable = Readable(
            run.processes, run.config.data, record_prompt, run.adapter.check_media
        )  # of the expert's records

    @property
    def needs_reference(self) -> bool:
        return needs_reference(self.algorithm)

    def begin(self) -> None:
        """The contract's cheap clauses, on one prompt."""
        self.policy_gradient.refuse_broken_adapter(self.prompts)

    # ---------------------------------------------------------------- one step

    def step(self) -> dict[str, Any]:
        """Everything between two prompts."""
        began, used = time.monotonic(), time.process_time()
        options, cursor, run = self.options, self.cursor, self.run
        groups = self.rollouts.next()
        rolled = time.monotonic()
        experience = self.experience(groups)
        annotate(experience)
        while cursor.update < options.updates * options.epochs:
            self._update(experience, cursor.update)
            cursor.end_update()
            run.point("update")
        row = grpo_row(experience, options, cursor, run.processes)
        row |= scores_row(groups, run.weights, run.processes)
        row["lr"] = self.learners["policy"].rate
        self.keep_samples(groups)  # a disk may be full: what is counted behind it is counted once
        if row["loss"] is None and not options.tree:  # a tree without a branching has none, either
            tell_empty(cursor.total_steps + 1, run.processes)
        cursor.samples += int(run.processes.total(len(experience.samples)))
        cursor.actions += int(run.processes.total(float(experience.mask.sum())))
        times = {"time/update": time.monotonic() - rolled, "time/step": time.monotonic() - began}
        return row | times | {"time/cpu": time.process_time() - used}

    def experience(self, groups: list[Group]) -> Experience:
        """A step's groups as tensors, with their advantages."""
        weights = dict(self.run.weights)
        if self.options.tree:
            weights[TREE] = 1.0
        return self.policy_gradient.experience(groups, self.rollouts.n_groups, weights)

    def _update(self, experience: Experience, number: int) -> None:
        """One optimizer step over an even share of the groups."""
        options, cursor, run, learner = self.options, self.cursor, self.run, self.learners["policy"]
        mu = share(options.expert, cursor.step)
        own = self.policy_gradient.update(experience, number, scale=1 - mu)
        for part in own.add(cursor.micro):
            self._refuse_non_finite(part)
            cursor.sums.add(part.metrics)
            cursor.micro = part.number + 1
            run.point("micro")
        if options.expert and mu > 0:
            self._expert(options.expert, learner.steps, mu, own.micros)
        try:
            norm = learner.step()
        except NonFiniteError as error:
            raise NonFiniteError(self.non_finite(str(error), experience.samples)) from None
        cursor.sums.note("grad_norm", max(norm, cursor.sums.known.get("grad_norm", 0.0)))

    def _expert(self, expert: ExpertConfig, number: int, mu: float, before: int) -> None:
        """Add mu times the expert's gradient; before: micro-batches of the policy in the same update."""
        cursor, run, records = self.cursor, self.run, self.run.data.records
        assert records is not None  # the config has asked for them
        seed = seed_of(run.seed, self.options.name, "expert")
        start = max(0, cursor.micro - before)
        for done, loss in expert_gradient(
            run.adapter, expert, records, self.readable, number, seed, run.processes, mu, start
        ):
            cursor.sums.add({"expert/loss": loss})
            cursor.micro = before + done + 1
            run.point("micro")

    def _refuse_non_finite(self, part: MicroBatch) -> None:
        if not math.isfinite(part.loss):
            raise NonFiniteError(self.non_finite(f"loss is {part.loss}", part.samples))
