"""A stage of distillation: a few-step generator that is drawn to its teacher's distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.config.forward_process import TimesConfig
from mmrl.config.optim import OptimConfig
from mmrl.config.roles import RoleConfig
from mmrl.config.stage import Stage
from mmrl.strict import When


class LookTimes(TimesConfig):
    """The times at which teacher and fake score look at a sample, from 0 (data) to 1 (noise)."""

    low: float = Field(0.02, ge=0, lt=1, description="uniform: the least time.")
    high: float = Field(0.98, gt=0, le=1, description="uniform: the largest time.")


class DistillStage(Stage):
    """Distribution matching (DMD): the policy samples in few steps and is drawn to what the model that the stage begins
    with, its teacher, would sample in many; a fake score follows what the policy samples."""

    kind: Literal["distill"] = "distill"
    groups: int = Field(8, ge=1, description="Prompts per step, over all processes.")
    samples: int = Field(1, ge=1, description="Samples per prompt.")
    every: int = Field(1, ge=1, description="The policy is updated in each so-many-th step, from the first on.")
    early: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the sampler's steps, the noisiest first, at which the policy is drawn to its teacher.",
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
    fake: RoleConfig = Field(
        default_factory=lambda: RoleConfig(optim=OptimConfig()),
        description="The fake score: a copy that is trained on what the policy samples, with an optimizer and updates "
        "of its own; `follow` pulls it to the policy.",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "teacher_steps": When(lambda _, run: run.data.eval_prompts, "`data.eval_prompts`, for the teacher to draw"),
    }

    @model_validator(mode="after")
    def _fake_is_trained(self) -> DistillStage:
        if self.fake.optim is None or self.fake.every > 1:
            raise ValueError(
                "fake: the fake score is trained in every step, with an `optim` of its own: it has to know what the "
                "policy samples now"
            )
        return self

    def updates_in(self, step: int) -> int:
        """Updates of the policy in a step, from 0: one or none."""
        return int(step % self.every == 0)

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        count = self.groups * self.samples
        every = "each step" if self.every == 1 else f"every {self.every} steps"
        return [
            f"{self.groups} prompts x {self.samples} samples = {count} samples a step over {processes} process(es), in "
            f"{-(-count // self.micro_batch)} micro-batches an update",
            f"the policy is updated {every}; {self.optim.in_words()}",
            f"role fake: {self.fake.in_words()}",
            *([f"the teacher draws the held-out prompts in {self.teacher_steps} steps"] if self.teacher_steps else []),
        ]
