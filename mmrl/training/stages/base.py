"""A stage of training: the class that every kind subclasses, in a file of its own, named in `kinds`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mmrl.config import Stage as StageConfig
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.learner import Learner
from mmrl.training.policy import Policy
from mmrl.training.run import Run
from mmrl.types import Prompt

Section = TypeVar("Section", bound=StageConfig)


class Stage(Generic[Section]):
    """One stage of a run, from its data to its learners; the loop calls `begin`, `step` until `done`, then `end`.

    Options: the section of the config; its method `plan_lines` says what the stage would do, for `mmrl plan`.
    options, run, policy, cursor: what it is made with. learners: what it trains, by name; {} trains nothing.
    """

    Options: ClassVar[type[StageConfig]]

    def __init__(self, run: Run, options: Section, policy: Policy, cursor: Cursor) -> None:
        self.run, self.options, self.policy, self.cursor = run, options, policy, cursor
        self.learners: dict[str, Learner] = self.make_learners()

    @property
    def seed(self) -> int:
        """Of the stage's random numbers; another stage of the run has another one."""
        return seed_of(self.run.seed, self.options.name)

    # ---------------------------------------------------------------- what a kind says

    @property
    def needs_reference(self) -> bool:
        """Whether it compares the policy with the one that it starts from."""
        return False

    @property
    def rolled_out(self) -> Sequence[Prompt]:
        """The prompts that it samples; () for none."""
        return ()

    def updates(self) -> int:
        """Optimizer steps that the stage takes altogether; the learning rate's schedule is over them."""
        return self.options.steps

    def make_learners(self) -> dict[str, Learner]:
        """What is trained, each with its own optimizer and schedule: here the policy, as `optim` says."""
        return {"policy": self.learner("policy", self.policy.parameters)}

    def begin(self) -> None:
        """Before the first step, not on a resume: what must hold. Raises what stops the run."""

    def step(self) -> dict[str, Any]:
        """One step; returns its row of metrics. Asks `run.point` wherever it may be cut."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        return self.cursor.step >= self.options.steps

    @property
    def why_done(self) -> str:
        """Why it is done before its `steps`."""
        return "nothing is left to do"

    def end(self) -> None:
        """Behind the last step, the parameters being their averages, where there are any."""

    def clean(self) -> None:
        """Behind the checkpoint that holds its end: what only a resume would have needed goes."""

    def close_step(self) -> None:
        """Behind a step that was logged: what it used up goes."""

    # ---------------------------------------------------------------- a part of a checkpoint, besides its learners

    def state(self) -> dict[str, Any]:
        """What it hands on from step to step, as JSON."""
        return {}

    def tensors(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        """The inverse of both."""

    def save_own(self, folder: Path) -> None:
        """Write what this process alone holds, such as its samples."""

    def load_own(self, folder: Path) -> None:
        """The inverse, also where another number of processes wrote it."""

    def redo_update(self) -> None:
        """Begin the open update anew: where it was cut, other micro-batches or processes were at work."""
        self.cursor.redo_update()
        for learner in self.learners.values():
            learner.forget_gradient()

    # ---------------------------------------------------------------- helpers of kinds

    def learner(self, name: str, parameters: Mapping[str, Any]) -> Learner:
        """A learner with the stage's `optim`."""
        return Learner(name, parameters, self.options.optim, self.updates(), self.run.processes)
