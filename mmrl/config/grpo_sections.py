"""What a grpo stage may add: an order of prompts, hints, an expert, a search tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.environments.tree_search import TreeOptions
from mmrl.strict import Strict, When

LEVELS = "`order: staged` or mixed"


class CurriculumConfig(Strict):
    """Which prompts come next."""

    order: Literal["shuffled", "sorted", "staged", "mixed"] = Field(
        "shuffled",
        description="shuffled: passes over all prompts. sorted: from easy to difficult. staged: one level at a time. "
        "mixed: the level and those below it.",
    )
    column: str | None = Field(None, description="Column of the records that says how difficult a prompt is.")
    advance_at: float = Field(0.75, ge=0, le=1, description="Mean pass rate at which the next level begins (SATURN).")
    window: int = Field(32, ge=1, description="Groups of the level that the mean is over.")
    advance_every: int | None = Field(None, ge=1, description="The next level begins after so many steps, too.")
    retire_at: float | None = Field(
        None, ge=0, le=1, description="A prompt whose pass rate reaches it leaves for good (ScaleRL: 0.9)."
    )
    correct_at: float = Field(0.5, description="A sample with this summed reward or more has passed.")

    effects: ClassVar[Mapping[str, When]] = {
        "column": When(lambda s, _: s.order != "shuffled", "another `order` than shuffled"),
        "advance_at": When(lambda s, _: s.has_levels, LEVELS),
        "window": When(lambda s, _: s.has_levels, LEVELS),
        "advance_every": When(lambda s, _: s.has_levels, LEVELS),
        "correct_at": When(lambda s, _: s.has_levels or s.retire_at is not None, f"`retire_at`, or {LEVELS}"),
    }

    @property
    def has_levels(self) -> bool:
        """Whether prompts come level by level."""
        return self.order in ("staged", "mixed")

    @model_validator(mode="after")
    def _levels_need_a_column(self) -> CurriculumConfig:
        if self.order != "shuffled" and self.column is None:
            raise ValueError(f"order={self.order} needs `column:`, a number in every record")
        return self


class HintsConfig(Strict):
    """GHPO: groups that are answered wrong throughout are sampled again with a part of the reference solution."""

    reward: str = Field(description="Name of the reward that says what is right.")
    threshold: float = Field(1.0, description="A sample below it is wrong.")
    fractions: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=lambda: [0.25, 0.5, 0.75],
        min_length=1,
        description="Shares of the record's `solution`, one rung each.",
    )
    sentence: str = Field(
        "\n\nThe reference solution begins as follows; continue from it:\n", description="Between prompt and hint."
    )

    @model_validator(mode="after")
    def _fractions_rise(self) -> HintsConfig:
        if sorted(set(self.fractions)) != self.fractions:
            raise ValueError(f"fractions={self.fractions} must rise: each rung shows more than the one before")
        return self


class ExpertConfig(Strict):
    """CHORD: the loss is (1 - mu) of the policy's and mu of a supervised one on `data.records`."""

    objective: str = Field("sft", description="One of an sft stage's, such as sft_phi, which weighs by p (1 - p).")
    batch: int = Field(32, ge=1, description="Records per optimizer step.")
    micro_batch: int = Field(32, ge=1, description="Records per micro-batch.")
    peak: float = Field(0.1, ge=0, le=1, description="mu after the warm-up.")
    valley: float = Field(0.1, ge=0, le=1, description="mu after the decay.")
    warmup: int = Field(0, ge=0, description="Steps from 0 to peak.")
    decay: int = Field(1, ge=1, description="Steps from peak to valley, along half a cosine.")

    effects: ClassVar[Mapping[str, When]] = {
        "warmup": When(lambda s, _: s.peak > 0, "a `peak` above 0"),
        "decay": When(lambda s, _: s.peak != s.valley, "a `valley` other than the `peak`"),
    }


class TreeConfig(TreeOptions):
    """Groups from tree search (PROPA): the steps that branch off a path, rewarded by what the paths come to."""

    step_end: str = Field("\n\n", min_length=1, description="Text that ends a step; the end token ends the last one.")
    step_tokens: int = Field(256, ge=1, description="Tokens of the longest step.")
