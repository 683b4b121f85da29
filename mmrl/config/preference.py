"""A stage of preference training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mmrl.config.stage import Stage


class PreferenceStage(Stage):
    """Offline preference training on pairs of answers, chosen and rejected."""

    kind: Literal["preference"] = "preference"
    pairs: str | None = Field(
        None,
        description="A .jsonl file of records `prompt`, `chosen`, `rejected` (any other columns go to the adapter); "
        "or take them from a filter stage with `data_from`.",
    )
    objective: Literal["dpo", "bco", "mpo"] = Field(
        "dpo",
        description="dpo: the margin of the two answers. bco: each against a running mean of rewards. mpo: both, and "
        "the likelihood of the chosen answer.",
    )
    beta: float = Field(0.1, gt=0, description="Scale of the implicit reward, beta * log(policy / reference).")
    form: Literal["sigmoid", "ipo"] = Field("sigmoid", description="dpo: its loss of the margin.")
    label_smoothing: float = Field(0.0, ge=0, le=0.5, description="dpo, mpo: assumed share of swapped labels.")
    weights: tuple[float, float, float] = Field((0.8, 0.2, 1.0), description="mpo: weights of DPO, BCO and SFT.")
    batch: int = Field(64, ge=1, description="Pairs per optimizer step, over all processes.")

    @model_validator(mode="after")
    def _options_fit(self) -> PreferenceStage:
        if (self.pairs is None) == (self.data_from is None):
            raise ValueError("a preference stage takes either `pairs:`, a .jsonl file, or `data_from:`, a filter stage")
        if self.form == "ipo" and (self.objective != "dpo" or self.label_smoothing):
            raise ValueError("form=ipo goes with objective=dpo and label_smoothing=0")
        if self.objective == "bco" and self.label_smoothing:
            raise ValueError("label_smoothing is an option of dpo and mpo; set it to 0 for bco")
        return self

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        pairs = self.pairs or f"what stage {self.data_from} keeps"
        what = f"{self.batch} pairs a step from {pairs}, objective {self.objective}, beta {self.beta:g}"
        return [what, self.optim.in_words()]
