"""The `data.chain:` section: how the chain of thought of a supervised record becomes the answer that is learned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmrl.sections import ANSWER, INSIDE, SECTIONS, checked_names
from mmrl.strict import Strict


class ChainConfig(Strict):
    """How a record's `cot` and `answer` become the completion that is learned; the reward `tags.structured` of the
    same names finds it right where it is structured."""

    style: Literal["structured", "free"] = Field(
        "structured", description="structured: every section in its tag. free: the thought as one text."
    )
    sections: list[str] = Field(
        default_factory=lambda: list(SECTIONS),
        description="Names of the sections, in order, as they are written; a record may have them in other case.",
    )
    inside: str | None = Field(INSIDE, description="Tag around the thought; null: none.")
    answer: str = Field(ANSWER, description="Tag around the answer.")

    @model_validator(mode="after")
    def _names_differ(self) -> ChainConfig:
        checked_names(self.sections, self.inside, self.answer)
        return self
