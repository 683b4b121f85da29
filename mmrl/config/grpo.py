"""A stage of reinforcement learning, and the algorithm that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mmrl.config.grpo_sections import CurriculumConfig, ExpertConfig, HintsConfig, TreeConfig
from mmrl.config.stage import Stage
from mmrl.core.algorithm import PRESETS, Algorithm, resolve
from mmrl.strict import When

# Estimators that do not compare a sample with the others of its group.
ALONE = ("none", "zero", "whiten", "whiten_tokens", "outlier_filter")

# Gates that read the clip range, and fields of the algorithm that change something beside some others only.
CLIPPING = ("ppo", "two_sided", "dual_clip", "preclip")
CLIPS = When(lambda a, _: a.gate.name in CLIPPING, f"a gate that clips at it: {', '.join(CLIPPING)}")
KL = When(lambda a, _: a.kl_coef > 0, "a `kl_coef` above 0")
OF_ALGORITHM = {
    "clip_low": CLIPS,
    "clip_high": CLIPS,
    "constant_length": When(lambda a, _: a.aggregate == "constant", "`aggregate: constant`"),
    "kl_estimator": KL,
    "kl_place": KL,
}

WHOLE = When(lambda s, _: s.tree is None, "whole answers (`tree: null`)")


def resolve_algorithm(section: Mapping[str, Any]) -> Algorithm:
    """The Algorithm of an `algorithm:` section."""
    options = dict(section)
    return resolve(options.pop("preset", "grpo"), options)


class GrpoStage(Stage):
    """Reinforcement learning with groups of samples per prompt."""

    kind: Literal["grpo"] = "grpo"
    groups: int = Field(8, ge=1, description="Prompts (groups) per step, over all processes.")
    samples: int = Field(8, ge=1, description="Samples per prompt.")
    updates: int = Field(1, ge=1, description="Optimizer steps per rollout: groups are split evenly over them.")
    epochs: int = Field(1, ge=1, description="Passes over the rollout.")
    staleness: int = Field(
        0,
        ge=0,
        description="Every rollout is used so many steps after it was sampled (PipelineRL-k), ratios being measured "
        "against the weights that sampled it; the first step fills the queue. 0 samples for each step anew.",
    )
    rollout_chunk: int | None = Field(
        None,
        ge=1,
        description="Groups rolled out together; their rewards run beside the next. null: all at once.",
    )
    algorithm: dict[str, Any] = Field(
        default_factory=lambda: {"preset": "grpo"},
        description="`preset`, a published algorithm, and any field to change in it (`stages.*.algorithm`, below).",
    )
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig, description="Which prompts come next.")
    refill: int = Field(
        1,
        ge=1,
        description="Dynamic sampling (DAPO): times that a step is sampled at most, groups whose rewards are all equal "
        "being replaced by new prompts; 1 never replaces.",
    )
    tree: TreeConfig | None = Field(
        None,
        description="Search a tree for every prompt, whose branchings are the groups (PROPA); null: whole answers.",
    )
    hints: HintsConfig | None = Field(None, description="Hints for groups that are all wrong (GHPO); null: none.")
    expert: ExpertConfig | None = Field(None, description="Expert mixing (CHORD); null: none.")
    max_invalid: float = Field(
        0.2, ge=0, le=1, description="Stop when a larger share of a step's samples has an invalid reward."
    )
    shuffle_rewards: bool = Field(
        False,
        description="Control run: rewards are shuffled over the samples, so that nothing can be learned.",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "samples": When(lambda s, _: s.tree is None, "whole answers (`tree: null`); a tree has `children`"),
        "rollout_chunk": WHOLE,
        "max_invalid": WHOLE,
        "curriculum.retire_at": WHOLE,
        "curriculum.correct_at": WHOLE,
        "curriculum.advance_at": WHOLE,
        "curriculum.window": WHOLE,
    }

    @property
    def resolved(self) -> Algorithm:
        """The algorithm of the stage."""
        return resolve_algorithm(self.algorithm)

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, value: dict[str, Any]) -> dict[str, Any]:
        resolve_algorithm(value)
        return value

    @model_validator(mode="after")
    def _trees_stand_alone(self) -> GrpoStage:
        others = {"hints": self.hints is not None, "refill": self.refill > 1, "staleness": self.staleness > 0}
        if self.tree and any(others.values()):
            raise ValueError(f"tree goes without {', '.join(name for name, on in others.items() if on)}; leave one out")
        return self

    @model_validator(mode="after")
    def _updates_divide_groups(self) -> GrpoStage:
        if self.groups % self.updates:
            raise ValueError(
                f"groups={self.groups} cannot be split evenly over updates={self.updates}; "
                f"take groups={self.groups // self.updates * self.updates + self.updates} or updates=1"
            )
        return self

    @model_validator(mode="after")
    def _staleness_is_kept(self) -> GrpoStage:
        for hook in (h for h in self.resolved.filters if h.name == "staleness"):
            from mmrl.core.filter import FILTERS  # loaded already, to check the hook's options

            most = hook.options.get("most", FILTERS["staleness"].options["most"].default)
            if self.staleness > most:
                raise ValueError(
                    f"staleness={self.staleness} makes rollouts that the filter staleness (most {most}) drops; take "
                    f"staleness={most} or less, or most={self.staleness}"
                )
        return self

    @model_validator(mode="after")
    def _algorithm_fits(self) -> GrpoStage:
        algorithm, preset = self.resolved, PRESETS[self.algorithm.get("preset", "grpo")]
        for name, when in OF_ALGORITHM.items():
            given = getattr(algorithm, name) != preset.get(name, getattr(Algorithm, name))
            if given and not when.test(algorithm, None):
                raise ValueError(f"algorithm.{name} has no effect here, it needs {when.needs}; leave it out")
        compares = algorithm.combine == "gdpo" or algorithm.advantage.name not in ALONE
        if self.samples < 2 and self.tree is None and compares:
            raise ValueError("samples=1 leaves nothing to compare inside a group; take samples=2 or more")
        if self.tree and algorithm.kl_coef > 0 and algorithm.kl_place == "reward":
            raise ValueError("kl_place='reward' goes with whole answers, not with a tree's steps; set kl_place='loss'")
        return self
