"""A stage that samples and keeps, and which stages take what it kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.config.grpo_sections import TreeConfig
from mmrl.config.stage import Stage
from mmrl.config.stage_sampling import SamplingStage
from mmrl.near import short
from mmrl.strict import When

# The rule of a filter stage whose result a stage of a kind can take; `rule_for` knows of more.
TAKES = {
    "grpo": "difficulty",
    "forward_process": "difficulty",
    "distill": "difficulty",
    "filter": "difficulty",
    "sft": "rejection",
    "preference": "pairs",
    "reward_model": "pairs",
}


def rule_for(stage: Stage) -> str | None:
    """The rule of a filter stage whose result this stage can take: a reward model of steps takes steps."""
    steps = stage.kind == "reward_model" and getattr(stage, "rows", None) == "steps"
    return "steps" if steps else TAKES.get(stage.kind)


class FilterStage(SamplingStage):
    """Sampling and scoring without training: what is kept is the data of later stages (data/NAME.jsonl)."""

    kind: Literal["filter"] = "filter"
    rule: Literal["pairs", "rejection", "difficulty", "steps"] = Field(
        description="pairs: the best and the worst answer of a prompt. rejection: correct answers, as supervised "
        "records. difficulty: prompts whose share of correct answers is from `low` to `high`, with that share and the "
        "number of the first correct one in the columns `pass_rate` and `attempts`. steps: the paths of a searched "
        "`tree` in the columns `steps` and `values`, what each step came to, for a process reward model (PROPA)."
    )
    groups: int = Field(8, ge=1, description="Prompts per step, over all processes; each prompt is sampled once.")
    samples: int = Field(8, ge=1, description="Samples per prompt.")
    reward: str | None = Field(
        None, description="Name of the reward that the rule looks at; null takes the weighted sum of all."
    )
    correct_at: float = Field(0.5, description="An answer with this reward or more is correct.")
    margin: float = Field(0.0, ge=0, description="pairs: the reward of the best is more than this above the worst's.")
    require_correct: bool = Field(True, description="pairs: the chosen answer is correct and the rejected one wrong.")
    keep: int | None = Field(None, ge=1, description="rejection: answers kept per prompt, the best first; null: all.")
    low: float = Field(0.2, ge=0, le=1, description="difficulty: smallest share of correct answers.")
    high: float = Field(0.8, ge=0, le=1, description="difficulty: largest share of correct answers.")
    min_attempts: int = Field(
        1,
        ge=1,
        description="difficulty: number of the first correct answer at least, among those that have a reward; without "
        "any it is their number + 1. R1-Reward: 2 of 3 samples, with low 0 and high 1.",
    )
    pass_rates: str | None = Field(
        None,
        description="difficulty: pass rates of an earlier run, its data/NAME.pass_rates.jsonl: prompts that are in it "
        "are not sampled again. null: every prompt is.",
    )
    pass_rates_of: Literal["same", "any"] = Field(
        "same",
        description="same: rates that were measured with other weights, rewards or sampling are refused. any: taken as "
        "they are.",
    )
    max_invalid: float = Field(
        0.2, ge=0, le=1, description="Stop when a larger share of a step's samples has an invalid reward."
    )
    tree: TreeConfig | None = Field(None, description="steps: the search, of one tree for every prompt.")

    effects: ClassVar[Mapping[str, When]] = {
        "optim": When(lambda s, _: False, "a stage that trains"),
        "components": When(lambda s, _: False, "a stage that trains"),
        "micro_batch": When(lambda s, _: False, "a stage that trains"),
        "samples": When(lambda s, _: s.rule != "steps", "another rule than steps; a tree has `children`"),
        "max_invalid": When(lambda s, _: s.rule != "steps", "another rule than steps: no value of a tree is guessed"),
        "tree": When(lambda s, _: s.rule == "steps", "`rule: steps`"),
        "tree.least_spread": When(lambda s, _: False, "a stage that trains on the branchings"),
        "margin": When(lambda s, _: s.rule == "pairs", "`rule: pairs`"),
        "require_correct": When(lambda s, _: s.rule == "pairs", "`rule: pairs`"),
        "keep": When(lambda s, _: s.rule == "rejection", "`rule: rejection`"),
        "low": When(lambda s, _: s.rule == "difficulty", "`rule: difficulty`"),
        "high": When(lambda s, _: s.rule == "difficulty", "`rule: difficulty`"),
        "min_attempts": When(lambda s, _: s.rule == "difficulty", "`rule: difficulty`"),
        "pass_rates": When(lambda s, _: s.rule == "difficulty", "`rule: difficulty`"),
        "pass_rates_of": When(lambda s, _: s.pass_rates is not None, "`pass_rates`"),
    }

    @model_validator(mode="after")
    def _options_fit(self) -> FilterStage:
        if not re.fullmatch(r"[\w.\-]*", self.name):
            raise ValueError(f"name={short(self.name)} names a file; use letters, digits, `_`, `-` and `.` only")
        if self.steps < 1:
            raise ValueError("steps=0 filters nothing; take as many steps of `groups` prompts as there are prompts")
        if self.rule == "pairs" and self.samples < 2:
            raise ValueError("samples=1 makes no pairs; take samples=2 or more")
        if self.rule == "steps" and self.tree is None:
            raise ValueError("rule=steps needs `tree: {}`, how the trees are searched")
        if self.low > self.high:
            raise ValueError(f"low={self.low:g} is above high={self.high:g}: no prompt could be kept")
        if self.min_attempts > self.samples + 1:
            raise ValueError(
                f"min_attempts={self.min_attempts} is more than samples + 1 = {self.samples + 1}: nothing could be kept"
            )
        return self

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        tree, each = self.tree, f"{self.groups} prompts x {self.samples} samples a step"
        if tree is not None:
            each = (
                f"{self.groups} prompts a step, each a tree of {tree.iterations} iterations x {tree.children} steps of "
                f"at most {tree.step_tokens} tokens, {tree.depth} deep,"
            )
        known = [f"pass rates of prompts in {self.pass_rates} are taken from there"] if self.pass_rates else []
        return [
            f"{each} over {processes} process(es); nothing is trained",
            f"keeps by rule {self.rule}, in {config.run_dir / 'data' / (self.name + '.jsonl')}",
            *known,
        ]
