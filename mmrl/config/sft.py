"""A stage of supervised training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.config.data import is_function
from mmrl.config.stage import Stage
from mmrl.strict import When


class SftStage(Stage):
    """Supervised training on records."""

    kind: Literal["sft"] = "sft"
    objective: str = Field(
        "sft",
        description="Which supervised loss of the adapter; image: sft, autoencoder; text, vision, audio: sft, sft_phi, "
        "sft_first (the first token has a share of its own, `model.first_share`), sft_first_released, sft_precise "
        "(tokens that have to be exact weigh more, `model.precise`).",
    )
    batch: int = Field(64, ge=1, description="Records per optimizer step.")
    options: dict[str, Any] | None = Field(
        None, description="Options of the records function in this stage; null takes `data.options`."
    )

    effects: ClassVar[Mapping[str, When]] = {
        "options": When(lambda _, run: is_function(run.data.records), "a function as `data.records`"),
    }

    @model_validator(mode="after")
    def _options_have_a_function(self) -> SftStage:
        if self.options is not None and self.data_from is not None:
            raise ValueError("options go with the records function of the run, not with data_from; leave one out")
        return self

    def record_objectives(self) -> list[str]:
        return [] if self.data_from else [self.objective]

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        micro = -(-self.batch // self.micro_batch)
        records = f"{self.batch} records a step in {micro} micro-batches of at most {self.micro_batch}"
        return [records, self.optim.in_words()]
