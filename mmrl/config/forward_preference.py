"""A stage of preference training on the forward process: pairs of pictures, or of whatever a flow model makes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mmrl.config.forward_process import TimesConfig
from mmrl.config.stage import Stage


class ForwardPreferenceStage(Stage):
    """Offline preference training of a flow model (Diffusion-DPO): of each pair the preferred one is denoised better
    than the reference does it, the other one worse."""

    kind: Literal["forward_preference"] = "forward_preference"
    pairs: str | None = Field(
        None,
        description="A .jsonl or .parquet file of records `prompt`, and two `candidates` with `shares`: pictures, in "
        "any of the forms that pairs may have (docs/pairs.md); null takes `data.prompts`.",
    )
    beta: float = Field(2000.0, gt=0, description="Of the margin of errors; 2000 is the released value for SD 1.5.")
    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="Assumed share of swapped labels, on top of soft `shares`."
    )
    draws: int = Field(1, ge=1, description="Times, each with its own noise, at which a pair is looked at in a step.")
    times: TimesConfig = Field(default_factory=TimesConfig, description="Which times; the draws are spread over them.")
    batch: int = Field(64, ge=1, description="Pairs per optimizer step, over all processes.")

    @model_validator(mode="after")
    def _pairs_are_of_pictures(self) -> ForwardPreferenceStage:
        if self.data_from is not None:
            raise ValueError("data_from: a filter stage keeps pairs of texts; give a forward_preference stage `pairs:`")
        return self

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        evaluations, pairs = 2 * self.batch * self.draws, self.pairs or config.data.prompts
        return [
            f"{self.batch} pairs a step from {pairs}, objective diffusion_dpo, beta {self.beta:g}; times "
            f"{self.times.name}, {self.draws} each: {evaluations} evaluations in "
            f"{-(-evaluations // self.micro_batch)} micro-batches",
            self.optim.in_words(),
        ]
