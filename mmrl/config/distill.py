"""A stage of distillation: a few-step generator that is drawn to its teacher's distribution, and may earn rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.config.adversary import AdversaryConfig, LookTimes
from mmrl.config.joint import JointConfig
from mmrl.config.optim import OptimConfig
from mmrl.config.roles import RoleConfig
from mmrl.config.sampled import SampledStage
from mmrl.config.surrogate import SurrogateConfig
from mmrl.core.resolving import ALONE
from mmrl.strict import When

REWARDED = When(lambda s, _: s.rewarded, "rewards that are learned from (`joint` or `surrogate`)")
JOINT = When(lambda s, _: s.joint is not None, "rewards that the policy learns from (`joint`)")
PULLED = When(lambda s, _: not (s.joint and s.joint.schedule == "weighted"), "another schedule than `weighted`")


class DistillStage(SampledStage):
    """Distribution matching (DMD): the policy samples in few steps and is drawn to what its teacher would sample in
    many; a fake score follows what the policy samples. With `adversary` and `joint`, Flash-DMD; with `surrogate`,
    TDM-R1."""

    kind: Literal["distill"] = "distill"
    samples: int = Field(1, ge=1, description="Samples per prompt.")
    every: int = Field(1, ge=1, description="The policy is drawn to its teacher in each so-many-th step.")
    pulls: int = Field(1, ge=1, description="Optimizer steps towards the teacher in such a step.")
    early: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the sampler's steps, the noisiest first, at which the policy is drawn to its teacher.",
    )
    teacher: str | None = Field(
        None,
        description="Folder of the teacher, a model like the policy (share:// for shipped); null: the model that the "
        "stage begins with.",
    )
    guidance: float | None = Field(
        None, ge=0, description="Guidance of the teacher; null: as the policy samples (`model.sampling.guidance`)."
    )
    teacher_steps: int | None = Field(
        None,
        ge=1,
        description="Denoising steps by which the teacher draws the held-out prompts once, when the stage begins, to "
        "be seen beside the policy in the report; null: it draws none.",
    )
    times: LookTimes = Field(
        default_factory=LookTimes, description="Times at which teacher and fake score look at a sample."
    )
    times_above: bool = Field(
        False,
        description="Those times lie above the noise level to which the step leads at which a sample is made anew, as "
        "in TDM.",
    )
    fake: RoleConfig = Field(
        default_factory=lambda: RoleConfig(optim=OptimConfig()),
        description="The fake score: a copy that is trained on what the policy samples, with an optimizer and updates "
        "of its own; `follow` pulls it to the policy.",
    )
    adversary: AdversaryConfig | None = Field(None, description="Heads that tell its samples from real ones; or null.")
    joint: JointConfig | None = Field(None, description="Rewards beside distillation; null: distillation alone.")
    surrogate: SurrogateConfig | None = Field(
        None, description="A copy of the teacher that learns the rewards, and that the policy follows; null: none."
    )

    effects: ClassVar[Mapping[str, When]] = {
        "every": PULLED,
        "pulls": PULLED,
        **dict.fromkeys(("updates", "epochs"), JOINT),
        **dict.fromkeys(("refill", "hints", "max_invalid", "shuffle_rewards"), REWARDED),
        **dict.fromkeys(("curriculum.retire_at", "curriculum.correct_at", "curriculum.advance_at"), REWARDED),
        **dict.fromkeys(("curriculum.reestimate", "curriculum.window", "curriculum.reward"), REWARDED),
        "teacher_steps": When(lambda _, run: run.data.eval_prompts, "`data.eval_prompts`, for the teacher to draw"),
    }

    @property
    def rewarded(self) -> bool:
        return self.joint is not None or self.surrogate is not None

    @model_validator(mode="after")
    def _fake_is_trained(self) -> DistillStage:
        if self.fake.optim is None or self.fake.every > 1:
            raise ValueError(
                "fake: the fake score is trained in every step, with an `optim` of its own: it has to know what the "
                "policy samples now"
            )
        return self

    @model_validator(mode="after")
    def _groups_compare(self) -> DistillStage:
        if self.joint is not None and self.samples < 2:
            algorithm = self.joint.resolved
            alone = algorithm.combine != "gdpo" and algorithm.advantage.name in ALONE
            if self.joint.objective == "step_dpo" or not alone:
                raise ValueError("joint: samples=1 leaves nothing to compare inside a group; take samples=2 or more")
        if self.surrogate is not None and self.joint is not None:
            raise ValueError("joint and surrogate are two ways to learn from the rewards; leave one out")
        if self.surrogate is not None and self.samples < 2:
            raise ValueError("surrogate: samples=1 leaves nothing to prefer inside a group; take samples=2 or more")
        return self

    def named_roles(self) -> dict[str, RoleConfig]:
        anchor = self.joint.anchor if self.joint else None
        surrogate = {"surrogate": self.surrogate.role} if self.surrogate else {}
        return {**super().named_roles(), **({"anchor": anchor} if anchor else {}), **surrogate}

    def record_objectives(self) -> list[str]:
        return ["sft"] if self.adversary is not None and self.adversary.real == "records" else []

    # ---------------------------------------------------------------- optimizer steps of the policy in a step, from 0

    def rewarded_in(self, step: int) -> int:
        """By rewards."""
        return self.updates * self.epochs if self.joint is not None and step >= self.joint.after else 0

    def weighted_in(self, step: int) -> bool:
        """Whether they are on the sum of both losses."""
        return self.joint is not None and self.joint.schedule == "weighted" and self.rewarded_in(step) > 0

    def pulled_in(self, step: int) -> int:
        """Towards the teacher alone."""
        return 0 if self.weighted_in(step) or step % self.every else self.pulls

    def updates_in(self, step: int) -> int:
        """All of them."""
        return self.rewarded_in(step) + self.pulled_in(step)

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        count = self.groups * self.samples
        every = "each step" if self.every == 1 else f"every {self.every} steps"
        teacher = f"; its teacher is {self.teacher}" if self.teacher else ""
        lines = [
            f"{self.groups} prompts x {self.samples} samples = {count} samples a step over {processes} process(es), in "
            f"{-(-count // self.micro_batch)} micro-batches an update",
            f"the policy is updated {every}{f', {self.pulls} times' if self.pulls > 1 else ''}; "
            f"{self.optim.in_words()}{teacher}",
            f"role fake: {self.fake.in_words()}",
            *([f"the teacher draws the held-out prompts in {self.teacher_steps} steps"] if self.teacher_steps else []),
        ]
        if self.adversary:
            lines.append(self.adversary.in_words())
        weights = ", ".join(f"{r.name} x {r.weight:g}" for r in config.rewards)
        if self.surrogate:
            lines.append(f"{self.surrogate.in_words()}; rewards: {weights}")
        if self.joint:
            lines.append(f"{self.joint.in_words()}; {self.updates * self.epochs} updates a step; rewards: {weights}")
        return lines
