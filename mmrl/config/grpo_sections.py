"""What a grpo stage may add: an order of prompts, hints, an expert, a search tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.environments.tree_search import TreeOptions
from mmrl.strict import Strict, When

LEVELS = "`order: staged` or mixed"
BY_RATE = f"{LEVELS}, with `advance: pass_rate`"
ORDERED = "another `order` than shuffled"


class AsynchronousConfig(Strict):
    """Servers sample in the background while the policy is trained (docs/async_rollouts.md)."""

    staleness: int = Field(
        1,
        ge=1,
        description="Steps by which the oldest weights that sampled a part of a group may be behind the step that "
        "learns from it; an older group is dropped, counted, and sampled again. So far ahead groups are asked for.",
    )
    push_every: int = Field(
        1,
        ge=1,
        description="Steps from one sending of the weights to the next; requests under way go on with the new ones.",
    )

    @model_validator(mode="after")
    def _fresh_enough(self) -> AsynchronousConfig:
        if self.push_every > self.staleness:
            raise ValueError(
                f"push_every={self.push_every} leaves the servers with weights that are {self.push_every - 1} steps "
                f"old, and nothing is asked for ahead with staleness={self.staleness}; take "
                f"push_every={self.staleness} or less"
            )
        return self


class CurriculumConfig(Strict):
    """Which prompts come next."""

    order: Literal["shuffled", "sorted", "staged", "mixed", "shifting"] = Field(
        "shuffled",
        description="shuffled: passes over all prompts. sorted: level by level in each pass. staged: one level at a "
        "time, in passes of its own. mixed: the level and those before it. shifting: each from a level that is drawn, "
        "at first mostly one of the first, at last mostly one of the last, linearly in the steps (docs/curriculum.md).",
    )
    column: str | None = Field(
        None, description="Column of the records that says how difficult a prompt is, or how often it is right."
    )
    first: Literal["low", "high"] = Field(
        "low", description="Which numbers of the column come first; `pass_rate` is easy where it is high."
    )
    buckets: int | None = Field(
        None,
        ge=2,
        description="Levels are so many buckets of about as many prompts each, equal numbers in one; null: a level for "
        "each different number.",
    )
    advance: Literal["pass_rate", "evenly"] = Field(
        "pass_rate",
        description="pass_rate: the next level begins by `advance_at` or `advance_every`. evenly: level b of B begins "
        "when b / B of the steps are done.",
    )
    advance_at: float = Field(0.75, ge=0, le=1, description="Mean pass rate at which the next level begins (SATURN).")
    window: int = Field(32, ge=1, description="Groups of the level that the mean is over.")
    advance_every: int | None = Field(None, ge=1, description="The next level begins after so many steps, too.")
    retire_at: float | None = Field(
        None, ge=0, le=1, description="A prompt whose pass rate reaches it leaves for good (ScaleRL: 0.9)."
    )
    reestimate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Numbers of the column that are pass rates follow the rollouts: p becomes (1 - reestimate) p + "
        "reestimate times the group's; levels are drawn anew before each step, of `sorted` before each pass.",
    )
    reward: str | None = Field(
        None, description="Name of the reward that says what has passed; null takes the weighted sum of all."
    )
    correct_at: float = Field(0.5, description="A sample with this reward or more has passed.")

    effects: ClassVar[Mapping[str, When]] = {
        **dict.fromkeys(
            ("column", "first", "buckets", "reestimate"), When(lambda s, _: s.order != "shuffled", ORDERED)
        ),
        "advance": When(lambda s, _: s.has_levels, LEVELS),
        **dict.fromkeys(("advance_at", "window", "advance_every"), When(lambda s, _: s.advances_by_rate, BY_RATE)),
        **dict.fromkeys(
            ("reward", "correct_at"),
            When(
                lambda s, _: s.advances_by_rate or s.retire_at is not None or s.reestimate is not None,
                f"`retire_at`, `reestimate`, or {BY_RATE}",
            ),
        ),
    }

    @property
    def has_levels(self) -> bool:
        """Whether prompts come level by level."""
        return self.order in ("staged", "mixed")

    @property
    def advances_by_rate(self) -> bool:
        """Whether pass rates, or steps, say when the next level begins."""
        return self.has_levels and self.advance == "pass_rate"

    @model_validator(mode="after")
    def _levels_need_a_column(self) -> CurriculumConfig:
        if self.reestimate is not None and self.buckets is None and self.order not in ("shuffled", "sorted"):
            raise ValueError(f"reestimate with order={self.order} needs `buckets:`, for its numbers soon all differ")
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
