"""A stage of training: the class that every kind subclasses, in a file of its own, named in `kinds`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from mmrl.config import ConfigError, FollowConfig, OptimConfig, RoleConfig
from mmrl.config import Stage as StageConfig
from mmrl.modalities.acting import copies
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.following import Follower
from mmrl.training.learner import Learner
from mmrl.training.policy import Policy
from mmrl.training.roles import Role
from mmrl.training.run import Run
from mmrl.types import Prompt

Section = TypeVar("Section", bound=StageConfig)


class Stage(Generic[Section]):
    """One stage of a run, from its data to its roles; the loop calls `begin`, `step` until `done`, then `end`.

    Options: the section of the config; its method `plan_lines` says what the stage would do, for `mmrl plan`.
    options, run, policy, cursor: what it is made with. roles: what it holds by name, the policy among them; {} trains
    nothing.
    """

    Options: ClassVar[type[StageConfig]]

    def __init__(self, run: Run, options: Section, policy: Policy, cursor: Cursor) -> None:
        self.run, self.options, self.policy, self.cursor = run, options, policy, cursor
        self.roles: dict[str, Role] = {role.name: role for role in self.make_roles()}

    @property
    def learners(self) -> dict[str, Learner]:
        """What it trains, by the roles' names."""
        return {name: role.learner for name, role in self.roles.items() if role.learner}

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

    def make_roles(self) -> list[Role]:
        """What the stage holds by name: here the policy, trained as `optim` says, and each role of its options."""
        weights = self.policy.parameters
        policy = Role("policy", weights, self.learner("policy", weights, self.options.optim, self.updates()))
        return [policy, *(self.role(name, options) for name, options in self.options.named_roles().items())]

    def prepare_reference(self) -> None:
        """Make what it compares with: here the policy as the stage begins."""
        self.run.adapter.prepare_reference()

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

    def leave(self) -> None:
        """Training ends here, done or cut short: what runs in the background is given up."""

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

    def role(self, name: str, options: RoleConfig, modules: Mapping[str, nn.Parameter] | None = None) -> Role:
        """Weights that begin as the policy is now, and act in its place; or the parameters of modules of its own.

        Raises ConfigError for modules that nothing trains, or that should follow the policy.
        """
        if modules is not None and (options.optim is None or options.follow is not None):
            raise ConfigError(f"role {name}: modules of its own are trained, by `optim`, and have nothing to `follow`")
        followed = self.policy.parameters
        weights = copies(followed, options.optim is not None) if modules is None else modules
        learner = follower = None
        if options.optim is not None:
            learner = self.learner(name, weights, options.optim, options.all_updates(self.options.steps))
        if options.follow is not None:
            follower = Follower(options.follow, weights, followed)
        return Role(name, weights, learner, follower, acts=modules is None)

    def learner(self, name: str, parameters: Mapping[str, nn.Parameter], optim: OptimConfig, updates: int) -> Learner:
        """updates: optimizer steps that its schedule is over."""
        return Learner(name, parameters, optim, updates, self.run.processes, self.run.adapter)

    def acting(self, name: str, gradient: bool = False) -> AbstractContextManager[None]:
        """Inside, the adapter is this role: what it samples and computes is of its weights; see Adapter.acting.

        name: of `roles`, or "reference". gradient: its losses are made and differentiated inside; the learner steps
        behind the block. Raises KeyError for a role that is not there, ValueError for one that cannot act, or gets a
        gradient and is not trained.
        """
        adapter = self.run.adapter
        if name == "reference" and not gradient:
            return adapter.reference()
        role = self.roles[name]
        if name == "policy":
            return adapter.acting(None, gradient)
        if not role.acts:
            raise ValueError(f"role {name} has modules of its own, which do not act in the policy's place: call them")
        if gradient and role.learner is None:
            raise ValueError(f"role {name} is not trained: leave `gradient` out, or give it `optim`")
        return adapter.acting(role.weights, gradient)

    def follower(self, name: str, options: FollowConfig, leader: Role) -> Role:
        """A role that follows another one than the policy: weights that begin as its do, and act in the policy's
        place."""
        weights = copies(leader.weights)
        return Role(
            name, weights, follower=Follower(options, weights, leader.weights), acts=leader.acts, leader=leader.name
        )

    def follow(self, leader: str = "policy") -> None:
        """Behind an update of a role: those that follow it do."""
        for role in self.roles.values():
            if role.follower and role.leader == leader:
                role.follow()
