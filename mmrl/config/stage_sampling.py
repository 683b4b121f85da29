"""What the stages have that sample the policy: each may sample in its own way."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mmrl.config.stage import Stage


class SamplingStage(Stage):
    """What the stages have that sample the policy."""

    sampling: dict[str, Any] | None = Field(
        None,
        description="Options of `model.sampling` that are others in this stage (of the image modality); those that are "
        "left out are the model's, and evaluation is as the model says. null: none.",
    )
