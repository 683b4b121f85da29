"""A surrogate of the reward inside of a distill stage: a trained copy of the teacher that the policy follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from mmrl.config.forward_process import refuse_policy_gradient
from mmrl.config.grpo import resolve_algorithm
from mmrl.config.optim import OptimConfig
from mmrl.config.roles import FollowConfig, RoleConfig
from mmrl.core.algorithm import Algorithm, in_words
from mmrl.strict import Strict, When


class SurrogateConfig(Strict):
    """What rewards teach a copy of the teacher (TDM-R1): to denoise good samples better than the teacher does and bad
    ones worse. What it would rather have than the teacher draws the policy."""

    role: RoleConfig = Field(
        default_factory=lambda: RoleConfig(optim=OptimConfig()),
        description="How the surrogate is trained: an optimizer and updates of its own, all of them on all samples.",
    )
    slow: FollowConfig | None = Field(
        None,
        description="How its slow copy follows it, from which the trust region is measured; null: `{decay: 0.3, rise: "
        "linear, start: 0.001}`.",
    )
    reward: float = Field(0.7, gt=0, description="Weight of its direction beside distribution matching.")
    guidance: float = Field(
        0.3, ge=0, description="Weight of the direction from the teacher to the guided teacher; 0 leaves it out."
    )
    beta: float = Field(1.0, gt=0, description="Of the group's logit.")
    clip: float = Field(
        1e-3, ge=0, description="Trust region: range of exp(error of the slow copy - error) around 1; 0 has none."
    )
    limit: float = Field(
        0.05, gt=0, description="Squared distance of errors to the teacher's beyond which a sample is left alone."
    )
    anchor: float = Field(1e-3, ge=0, description="Weight of that squared distance in the loss.")
    algorithm: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "grpo", "combine": "gdpo", "clamp": 5.0},
        description="How rewards become advantages, `preset` and fields as in a grpo stage.",
    )

    effects: ClassVar[Mapping[str, When]] = {"slow": When(lambda s, _: s.clip > 0, "a `clip` above 0")}

    @property
    def following(self) -> FollowConfig:
        """How the slow copy follows."""
        return self.slow or FollowConfig(decay=0.3, rise="linear", start=0.001)

    @property
    def resolved(self) -> Algorithm:
        """How rewards become advantages."""
        return resolve_algorithm(self.algorithm)

    @field_validator("algorithm")
    @classmethod
    def _only_advantages(cls, value: dict[str, Any]) -> dict[str, Any]:
        refuse_policy_gradient(resolve_algorithm(value), value, "a surrogate", "aggregate", "gate")
        return value

    @model_validator(mode="after")
    def _it_is_trained(self) -> SurrogateConfig:
        if self.role.optim is None or self.role.follow is not None:
            raise ValueError("role: the surrogate is trained, by an `optim` of its own, and has nothing to `follow`")
        return self

    def in_words(self) -> str:
        """On one line, for `mmrl plan`."""
        trust = (
            f"trust region {self.clip:g} around a copy that {self.following.in_words('it')}" if self.clip else "no clip"
        )
        return (
            f"surrogate: {self.role.in_words()}; advantage {in_words(self.resolved.advantage)}, beta {self.beta:g}, "
            f"{trust}; the policy follows it x {self.reward:g}, guidance x {self.guidance:g}"
        )
