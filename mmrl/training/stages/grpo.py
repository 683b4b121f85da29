"""The stage of reinforcement learning: rollout, rewards, advantages, replay, loss, updates.

The algorithm itself is mmrl.core; here are its inputs (who samples which groups) and its place in the loop.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from mmrl.config import ConfigError, ExpertConfig, GrpoStage, resolve_algorithm
from mmrl.core.algorithm import Algorithm
from mmrl.core.resolving import needs, needs_reference
from mmrl.core.terms import NEED_ENTROPY
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.learner import NonFiniteError
from mmrl.training.policy import Policy
from mmrl.training.rollouts.branching import REWARD as TREE
from mmrl.training.rollouts.broken import without_broken
from mmrl.training.run import Run
from mmrl.training.selfcheck import SelfCheck, refuse_broken_adapter
from mmrl.training.stages.experience import Experience, adapter_features, annotate
from mmrl.training.stages.expert import expert_gradient, share
from mmrl.training.stages.readable import Readable
from mmrl.training.stages.rows import LARGEST, OFF, grpo_row, monitor_row, pair_row, tell_empty
from mmrl.training.stages.sampled import Sampled
from mmrl.training.stages.sft import record_prompt
from mmrl.training.stages.update import (
    MicroBatch,
    Update,
    gradient,
    groups_of_update,
    micro_batches,
    plan_update,
)
from mmrl.types import Group, Prompt


class Grpo(Sampled[GrpoStage]):
    """Reinforcement learning with groups of samples per prompt."""

    Options = GrpoStage

    def __init__(self, run: Run, options: GrpoStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor, stage_algorithm(run, options))
        if options.tree:  # an adapter that makes no single steps says so
            run.adapter.next_steps([], [], greedy=True, end=options.tree.step_end, max_tokens=1)
        self.features = adapter_features(run.adapter, options.micro_batch)
        self.replays = options.replays_old(run.adapter.precision != torch.float32)
        self.readable = Readable(run.processes, run.config.data, record_prompt)  # of the expert's records
        self.check = SelfCheck(
            self.algorithm, run.adapter.precision, options.name, quiet=not run.processes.is_main, own=self.replays
        )

    @property
    def needs_reference(self) -> bool:
        return needs_reference(self.algorithm)

    def begin(self) -> None:
        """The contract's cheap clauses, on one prompt, whose pictures can be read."""
        run = self.run

        def check(prompts: list[Prompt]) -> list[Group]:
            refuse_broken_adapter(run.adapter, prompts[:1], self.options.micro_batch, run.seed)
            return []

        with run.sampling():
            without_broken(check, self.prompts, lambda prompt: prompt.id, run.config.data.on_bad_record)

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
        row |= monitor_row(groups, run.weights, run.processes)
        row |= pair_row(groups, list(run.weights), run.processes)
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
        options, run, algorithm = self.options, self.run, self.algorithm
        weights = dict(run.weights)
        if options.tree:
            weights[TREE] = 1.0
        return Experience.of(
            groups,
            weights,
            algorithm,
            n_groups=self.rollouts.n_groups,
            reduce=run.processes.reduce,
            step=self.cursor.step,
            features=self.features,
            shuffle=seed_of(self.seed, "shuffle", self.cursor.step) if options.shuffle_rewards else None,
        )

    def _update(self, experience: Experience, number: int) -> None:
        """One optimizer step over an even share of the groups."""
        options, cursor, run, learner = self.options, self.cursor, self.run, self.learners["policy"]
        update = self._planned(experience, number)
        mu = share(options.expert, cursor.step)
        check = self.check if number == 0 and experience.fresh else None
        slices = micro_batches(run.adapter, update, options.micro_batch)
        own = number == 0 and experience.fresh and self.replays
        for part in gradient(run.adapter, update, slices, scale=1 - mu, start=cursor.micro, on_replay=check, own=own):
            self._refuse_non_finite(part)
            cursor.sums.add(part.metrics)
            cursor.micro = part.number + 1
            run.point("micro")
        if options.expert and mu > 0:
            self._expert(options.expert, learner.steps, mu, len(slices))
        try:
            norm = learner.step()
        except NonFiniteError as error:
            raise NonFiniteError(self.non_finite(str(error), experience.samples)) from None
        cursor.sums.note("grad_norm", max(norm, cursor.sums.known.get("grad_norm", 0.0)))

    def _planned(self, experience: Experience, number: int) -> Update:
        """The `number`-th update of the step; how far the sampler's log-probs are off is counted beside it."""
        options, cursor = self.options, self.cursor
        epoch, part = divmod(number, options.updates)
        seed = seed_of(self.seed, cursor.step, epoch)
        chosen = groups_of_update(experience.batch.n_groups, options.updates, part, seed)
        update = plan_update(experience, self.algorithm, chosen, self.features, fresh=number == 0)
        if cursor.micro == 0 and update.found:  # not where the update goes on
            actions = float((experience.mask & chosen[experience.batch.group][:, None]).sum())
            means = {name: actions * value for name, value in update.found.items() if name != LARGEST}
            cursor.sums.add({OFF: actions, **means})
            cursor.sums.note(LARGEST, max(update.found[LARGEST], cursor.sums.known.get(LARGEST, 0.0)))
        return update

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


def stage_algorithm(run: Run, options: GrpoStage) -> Algorithm:
    """The stage's algorithm with the clip range of the adapter's kind of action where none is given.

    Raises ConfigError where it wants something of the replay that the adapter does not provide.
    """
    adapter = run.adapter
    algorithm = resolve_algorithm(options.algorithm).with_defaults(*adapter.default_clip)
    wanted = {"reference"} if needs_reference(algorithm) else set()
    wanted |= {"entropy"} if {hook.name for hook in algorithm.terms} & NEED_ENTROPY else set()
    if "divergence" in needs(algorithm) - adapter.provides:
        raise ConfigError(
            f"stage {options.name!r}: gate={algorithm.gate.name!r} asks how far the policy has moved at each action; "
            f"{type(adapter).__name__} does not provide the divergence (Adapter.provides): turn on what keeps it in "
            "model.sampling (keep_mean), or choose another gate"
        )
    for what in sorted(wanted - adapter.provides):
        raise ConfigError(
            f"stage {options.name!r}: the algorithm (kl_coef={algorithm.kl_coef:g}) asks for the {what}, which "
            f"{type(adapter).__name__} does not provide (Adapter.provides); set kl_coef=0 and leave its terms out, or "
            "give the adapter one"
        )
    return algorithm
