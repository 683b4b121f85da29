"""What every stage of training has."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from mmrl.config.optim import OptimConfig
from mmrl.config.roles import RoleConfig
from mmrl.strict import Strict


class Stage(Strict):
    """What every stage of training has."""

    # Whether `micro_batch` counts tokens, where the policy's actions are tokens.
    counts_tokens: ClassVar[bool] = False

    kind: str = Field(
        "",
        description="grpo, forward_process, distill, sft, preference, forward_preference, reward_model, filter, or "
        "your own, `path/file.py:Class`.",
    )
    name: str = Field("", description="Name for overrides and metrics; the kind when empty.")
    steps: int = Field(ge=0, description="Steps of this stage.")
    micro_batch: int = Field(
        64,
        ge=1,
        description="Model evaluations per micro-batch: records, tokens, or samples x denoising steps. Of tokens 8192, "
        "where nothing is said.",
    )
    optim: OptimConfig = Field(default_factory=OptimConfig)
    components: list[str] | None = Field(
        None, description="Parts of the model that are trained; null takes the adapter's default."
    )
    data_from: str | None = Field(
        None,
        description="Name of an earlier filter stage whose result is used: difficulty gives prompts, rejection "
        "supervised records, pairs preference pairs, steps numbers of steps. null takes the run's data.",
    )

    def record_objectives(self) -> list[str]:
        """Supervised objectives for which the stage reads the run's records (`data.records`); [] reads none."""
        return []

    def heldout_metric(self) -> str | None:
        """What the stage measures of the held-out records by itself, without rewards; None measures nothing."""
        return None

    def named_roles(self) -> dict[str, RoleConfig]:
        """The roles that the stage has beside its policy: every option that is a RoleConfig, by its name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, RoleConfig)}

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        """What the stage of a run (a Config) does, a fact a line, for `mmrl plan`."""
        roles = [f"role {name}: {options.in_words()}" for name, options in self.named_roles().items()]
        return [self.optim.in_words(), *roles]
