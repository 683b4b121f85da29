"""The adversarial part of a distill stage: heads that tell what the policy makes from real samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.config.forward_process import TimesConfig
from mmrl.config.optim import OptimConfig
from mmrl.config.roles import RoleConfig
from mmrl.strict import Strict, When

TEACHER = When(lambda s, _: s.real == "teacher", "`real: teacher`")


class LookTimes(TimesConfig):
    """The times at which a sample is looked at, from 0 (data) to 1 (noise)."""

    low: float = Field(0.02, ge=0, lt=1, description="uniform: the least time.")
    high: float = Field(0.98, gt=0, le=1, description="uniform: the largest time.")

    effects: ClassVar[Mapping[str, When]] = TimesConfig.effects


class AdversaryConfig(Strict):
    """A discriminator: small heads on what blocks of a frozen denoiser make of real and of generated samples. It trains
    the policy at its late steps, where distribution matching says little."""

    weight: float = Field(0.005, gt=0, description="Of the adversarial loss in the policy's; 5e-3 is DMD2's for SDXL.")
    form: Literal["softplus", "hinge"] = Field("softplus", description="Its loss; hinge leaves alone what is far off.")
    late: float = Field(
        0.5, gt=0, le=1, description="Share of the sampler's steps, the least noisy, that it trains the policy at."
    )
    real: Literal["records", "teacher"] = Field(
        "records",
        description="records: real samples are those of `data.records`. teacher: the teacher draws one for each sample "
        "of a step, in `teacher_steps` steps.",
    )
    teacher_steps: int = Field(20, ge=1, description="Steps of the ODE by which the teacher draws a real sample.")
    features: Literal["teacher", "fake"] = Field("teacher", description="Whose blocks the heads read; never trained.")
    blocks: int = Field(3, ge=1, description="How many blocks, spread evenly, the last among them; each has a head.")
    width: int = Field(64, ge=1, description="Hidden numbers of a head.")
    times: LookTimes = Field(default_factory=LookTimes, description="Times to which both kinds of samples are noised.")
    heads: RoleConfig = Field(
        default_factory=lambda: RoleConfig(optim=OptimConfig()),
        description="How the heads are trained: an optimizer and updates of their own.",
    )

    effects: ClassVar[Mapping[str, When]] = {"teacher_steps": TEACHER}

    @model_validator(mode="after")
    def _heads_are_trained(self) -> AdversaryConfig:
        if self.heads.optim is None or self.heads.follow is not None:
            raise ValueError("heads: they are trained, by an `optim` of their own, and have nothing to `follow`")
        return self

    def in_words(self) -> str:
        """On one line, for `mmrl plan`."""
        real = "records" if self.real == "records" else f"the teacher's, drawn in {self.teacher_steps} steps"
        return (
            f"adversary: {self.form} x {self.weight:g} at the last {self.late:.0%} of the steps, {self.blocks} heads "
            f"on blocks of the {self.features}, real samples are {real}; heads: {self.heads.in_words()}"
        )
