"""The `eval:` section: how held-out prompts are answered and what is reported of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.config.reward import RewardConfig
from mmrl.strict import Strict, When

ANSWERS = When(
    lambda _, run: run.samples_answers,
    "held-out prompts that are answered and rewarded: a stage reward_model scores given answers",
)


class EvalConfig(Strict):
    """Evaluation on held-out prompts, sampled as a user of the model would sample."""

    every: int = Field(0, ge=0, description="Steps between evaluations; 0 means before and after only.")
    prompts: int | None = Field(None, ge=1, description="Held-out prompts, drawn once by `seed`; null takes all.")
    samples: int = Field(1, ge=1, description="Samples per prompt.")
    seed: int = Field(1234, ge=0, description="Seed of the evaluation noise, the same at every evaluation.")
    by: str | None = Field(
        None, description="Column of the held-out records whose values also get a mean each, `eval/<reward>/<value>`."
    )
    pass_at: list[int] = Field(
        default_factory=list,
        description="Report pass@k, `eval/<reward>/pass@<k>`, for these k, each `samples` or fewer: the chance that "
        "one of k samples is right.",
    )
    correct_at: float = Field(0.5, description="A sample with this score or more is right, for pass@k and `choices`.")
    choices: Literal["given", "shuffled", "rotated"] = Field(
        "given",
        description="Order of the options of multiple choice. shuffled: drawn by `seed` and the record's id. rotated: "
        "each record is asked in every rotation of its options and counts their mean; `eval/<reward>/consistent` is "
        "the share that is right in all of them.",
    )
    rewards: list[RewardConfig] | None = Field(
        None, description="Rewards to report; null takes the training rewards. The first is the main metric."
    )

    effects: ClassVar[Mapping[str, When]] = {
        "samples": ANSWERS,
        "pass_at": ANSWERS,
        "choices": ANSWERS,
        "correct_at": When(lambda s, _: s.pass_at or s.choices == "rotated", "`pass_at` or `choices: rotated`"),
        "rewards.weight": When(lambda s, _: False, "a sum: each reward is reported by itself"),
    }

    @model_validator(mode="after")
    def _enough_samples(self) -> EvalConfig:
        if any(not 1 <= k <= self.samples for k in self.pass_at):
            raise ValueError(
                f"pass_at={self.pass_at} with samples={self.samples}: each k is from 1 to samples; take "
                f"samples={max(self.pass_at)} or more"
            )
        return self
