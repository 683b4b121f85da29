"""What the stages have that learn from groups of samples of their own policy."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mmrl.config.grpo_sections import AsynchronousConfig, CurriculumConfig, HintsConfig, TreeConfig
from mmrl.config.stage_sampling import SamplingStage


class SampledStage(SamplingStage):
    """What the stages have that learn from groups of samples of their own policy."""

    groups: int = Field(8, ge=1, description="Prompts (groups) per step, over all processes.")
    samples: int = Field(8, ge=1, description="Samples per prompt.")
    updates: int = Field(1, ge=1, description="Optimizer steps per rollout: groups are split evenly over them.")
    epochs: int = Field(1, ge=1, description="Passes over the rollout.")
    rollout_chunk: int | None = Field(
        None,
        ge=1,
        description="Groups rolled out together; their rewards run beside the next. null: all at once.",
    )
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig, description="Which prompts come next.")
    refill: int = Field(
        1,
        ge=1,
        description="Dynamic sampling (DAPO): times that a step is sampled at most, groups whose rewards are all equal "
        "being replaced by new prompts; 1 never replaces.",
    )
    hints: HintsConfig | None = Field(None, description="Hints for groups that are all wrong (GHPO); null: none.")
    max_invalid: float = Field(
        0.2, ge=0, le=1, description="Stop when a larger share of a step's samples has an invalid reward."
    )
    shuffle_rewards: bool = Field(
        False,
        description="Control run: rewards are shuffled over the samples, so that nothing can be learned.",
    )

    # ---------------------------------------------------------------- what only some of them can

    @property
    def rewarded(self) -> bool:
        """Whether it learns from rewards; else its samples are not scored."""
        return True

    @property
    def searched(self) -> TreeConfig | None:
        """The tree that is searched for every prompt; None: whole answers are sampled."""
        return None

    @property
    def parted(self) -> int | None:
        """How many samples leave each way at each step that is trained; None: whole samples are compared."""
        return None

    @property
    def ahead(self) -> int:
        """Steps for which rollouts wait until they are used."""
        return 0

    @property
    def flowing(self) -> AsynchronousConfig | None:
        """How servers sample in the background; None: rollouts come before their step."""
        return None

    def replays_old(self, sixteen_bit: bool) -> bool:
        """Whether ratios are measured against the trainer's own replay; sixteen_bit: what the forward computes in."""
        return False

    @model_validator(mode="after")
    def _updates_divide_groups(self) -> Self:
        if self.groups % self.updates:
            raise ValueError(
                f"groups={self.groups} cannot be split evenly over updates={self.updates}; "
                f"take groups={self.groups // self.updates * self.updates + self.updates} or updates=1"
            )
        return self
