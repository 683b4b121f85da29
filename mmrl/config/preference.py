"""A stage of preference training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.config.stage import Stage
from mmrl.strict import When

Weight = Annotated[float, Field(ge=0)]


class PreferenceStage(Stage):
    """Offline preference training on pairs of answers, chosen and rejected."""

    counts_tokens: ClassVar[bool] = True

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
    weights: tuple[Weight, Weight, Weight] = Field((0.8, 0.2, 1.0), description="mpo: weights of DPO, BCO and SFT.")
    batch: int = Field(64, ge=1, description="Pairs per optimizer step, over all processes.")

    effects: ClassVar[Mapping[str, When]] = {
        "form": When(lambda s, _: s.objective == "dpo", "`objective: dpo`"),
        "label_smoothing": When(lambda s, _: _has_margin(s) and s.form == "sigmoid", "a sigmoid of the margin"),
        "weights": When(lambda s, _: s.objective == "mpo", "`objective: mpo`"),
        "beta": When(lambda s, _: s.objective != "mpo" or any(s.weights[:2]), "`weights` of DPO or BCO"),
    }

    @model_validator(mode="after")
    def _options_fit(self) -> PreferenceStage:
        if (self.pairs is None) == (self.data_from is None):
            raise ValueError("a preference stage takes either `pairs:`, a .jsonl file, or `data_from:`, a filter stage")
        if self.objective == "mpo" and not any(self.weights):
            raise ValueError("weights: all three are 0, so that nothing would be learned")
        return self

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        pairs = self.pairs or f"what stage {self.data_from} keeps"
        what = f"{self.batch} pairs a step from {pairs}, objective {self.objective}, beta {self.beta:g}"
        return [what, self.optim.in_words()]


def _has_margin(stage: PreferenceStage) -> bool:
    return stage.objective == "dpo" or (stage.objective == "mpo" and stage.weights[0] > 0)
