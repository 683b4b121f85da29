"""An entry of the `rewards:` section."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from mmrl.near import short
from mmrl.strict import Strict, When

# Names of scores beside the rewards: the KL that comes off them, and what a tree gives its steps. And what stands in
# the place of a reward in the names of metrics: `reward/mean`, `eval/turns`.
RESERVED = ("kl", "tree", "mean", "std", "invalid", "visual_tokens", "turns", "env")


class RewardConfig(Strict):
    """One reward, by name, with its weight."""

    name: str = Field(description="`file.function` from rewards/, or `path/to/file.py:function`.")
    alias: str | None = Field(
        None, min_length=1, description="Its name in scores and metrics; a reward can then stand twice. null: its own."
    )
    weight: float = Field(1.0, description="Weight in the combination; negative turns the reward around.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword options of the reward.")
    timeout: float | None = Field(
        None,
        gt=0,
        description="Seconds that a call, on the samples of one group, may take; after that they are invalid, with the "
        "reason. null waits for ever.",
    )

    park: bool = Field(
        False,
        description="Its models wait in main memory, and are on the GPU only while it scores, which may be beside the "
        "next rollout: slower, by what it takes to bring them there. The reward has to hold torch models itself.",
    )

    effects: ClassVar = {"park": When(lambda _, run: run.device != "cpu", "a GPU (no `device: cpu`)")}

    @field_validator("alias")
    @classmethod
    def _is_free(cls, value: str | None) -> str | None:
        if value in RESERVED:
            raise ValueError(
                f"{value!r} is the name of a score or a metric that training makes by itself; take another"
            )
        if value and "/" in value:
            raise ValueError(f"{short(value)}: a `/` parts a reward's name from its tasks in metrics; take another")
        return value
