"""Reinforcement learning inside of a distill stage, on the samples that it draws anyway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mmrl.config.forward_process import refuse_policy_gradient
from mmrl.config.grpo import resolve_algorithm
from mmrl.config.roles import RoleConfig
from mmrl.core.algorithm import Algorithm, in_words
from mmrl.strict import Strict, When

STEP_DPO = When(lambda s, _: s.objective == "step_dpo", "`objective: step_dpo`")


class JointConfig(Strict):
    """What rewards do beside distillation: the policy learns from the log-probabilities of its re-noise steps."""

    objective: Literal["grpo", "step_dpo"] = Field(
        "grpo",
        description="grpo: the policy gradient of `algorithm`. step_dpo: of each group the best sample is preferred to "
        "the worst, step by step (DPO on latents).",
    )
    schedule: Literal["alternate", "weighted"] = Field(
        "alternate",
        description="alternate: `updates` by rewards, then `pulls` towards the teacher, each an optimizer step of its "
        "own. weighted: `updates` on the sum of both losses.",
    )
    weight: float = Field(1.0, gt=0, description="weighted: of the rewards' loss beside distillation's.")
    after: int = Field(0, ge=0, description="Steps of distillation alone, before rewards count.")
    algorithm: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "flow_grpo"},
        description="How rewards become advantages, and with grpo its loss: `preset` and fields as in a grpo stage.",
    )
    beta: float = Field(
        100.0, gt=0, description="step_dpo: of the preference's log-ratio, which is a mean over a latent's numbers."
    )
    anchor: RoleConfig | None = Field(
        None,
        description="step_dpo: what log-probs are compared with, a copy that may `follow` the policy; {} stays the "
        "model that the stage begins with. null: the policy that sampled.",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "weight": When(lambda s, _: s.schedule == "weighted", "`schedule: weighted`"),
        "beta": STEP_DPO,
        "anchor": STEP_DPO,
    }

    @property
    def resolved(self) -> Algorithm:
        """How rewards become advantages, and grpo's loss."""
        return resolve_algorithm(self.algorithm)

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, value: dict[str, Any]) -> dict[str, Any]:
        resolve_algorithm(value)
        return value

    @field_validator("anchor")
    @classmethod
    def _anchor_is_not_trained(cls, value: RoleConfig | None) -> RoleConfig | None:
        if value is not None and value.optim is not None:
            raise ValueError("anchor: what the policy is compared with is not trained; leave its `optim` out")
        return value

    @model_validator(mode="after")
    def _a_preference_takes_only_advantages(self) -> JointConfig:
        if self.objective == "step_dpo":
            refuse_policy_gradient(self.resolved, self.algorithm, "step_dpo", "aggregate", "gate")
        return self

    def in_words(self) -> str:
        """On one line, for `mmrl plan`."""
        algorithm = self.resolved
        loss = f"gate {in_words(algorithm.gate)}" if self.objective == "grpo" else f"beta {self.beta:g}"
        when = f", from step {self.after + 1} on" if self.after else ""
        how = f"{self.schedule}{f' x {self.weight:g}' if self.schedule == 'weighted' else ''}"
        return f"joint {self.objective} ({how}{when}): advantage {in_words(algorithm.advantage)}, {loss}"
