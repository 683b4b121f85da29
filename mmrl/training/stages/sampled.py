"""What the stages have in common that learn from groups of samples: prompts, rollouts, what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmrl.config import ConfigError, SampledStage
from mmrl.core.algorithm import Algorithm
from mmrl.training.cursor import Cursor
from mmrl.training.policy import Policy
from mmrl.training.rollouts.asynchronous import made_rollouts
from mmrl.training.rollouts.collecting import Collector
from mmrl.training.rollouts.deciding import check_known
from mmrl.training.rollouts.hints import check_hints
from mmrl.training.run import Run
from mmrl.training.run_folder import prompts_of
from mmrl.training.stages.base import Stage
from mmrl.types import Group, Prompt, Sample

Section = TypeVar("Section", bound=SampledStage)


class Sampled(Stage[Section]):
    """A stage whose step is a rollout and the updates on it.

    algorithm: how rewards become advantages, and what else the kind takes of it. rollouts: those that wait.
    """

    def __init__(self, run: Run, options: Section, policy: Policy, cursor: Cursor, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        super().__init__(run, options, policy, cursor)
        self.prompts = prompts_of(run, options.data_from)
        if options.rewarded and not any(run.weights.values()):
            raise ConfigError(f"stage {options.name!r}: every reward has weight 0: nothing would be learned")
        check_known(options.curriculum.reward, run.weights, f"stage {options.name!r}: curriculum.reward")
        if options.hints:
            check_hints(self.prompts, options.hints.reward, list(run.weights))
        collector = Collector(run, options, algorithm, self.prompts, cursor)
        self.rollouts = made_rollouts(run, options, cursor, collector)

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
        return f"all {len(self.prompts)} prompts have retired (curriculum.retire_at), or cannot be used"

    # ---------------------------------------------------------------- samples

    def keep_samples(self, groups: list[Group]) -> None:
        """Store the step's groups, where it is time."""
        step = self.cursor.total_steps + 1
        if self.run.shows(step):
            self.run.keep(f"step_{step:06d}", groups, self.run.config.report.groups)

    def non_finite(self, what: str, samples: Sequence[Sample]) -> str:
        """The samples behind a loss or a gradient that is no number are stored; returns the message."""
        groups = [Group(s.prompt, i, [s]) for i, s in enumerate(samples)]
        where = self.run.keep_offending(groups, what)
        return (
            f"{what} at step {self.cursor.total_steps + 1}: stopped before it reached the weights. The samples behind "
            f"it are {where}; lower optim.lr, or clip tighter, and go on with --resume --allow "
            f"stages.{self.options.name}"
        )

    # ---------------------------------------------------------------- a part of a checkpoint

    def close_step(self) -> None:
        self.rollouts.drop()

    def leave(self) -> None:
        self.rollouts.close()

    def clean(self) -> None:
        self.leave()

    def state(self) -> dict[str, Any]:
        return {"rollouts": self.rollouts.state()}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        self.rollouts.load(state["rollouts"])

    def save_own(self, folder: Path) -> None:
        self.rollouts.save(folder)

    def load_own(self, folder: Path) -> None:
        self.rollouts.load_groups(folder)
