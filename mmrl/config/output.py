"""The `checkpoint:` and `report:` sections: what a run leaves in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from mmrl.strict import Strict, When


class CheckpointConfig(Strict):
    """When the run is saved and how much is kept."""

    every: int = Field(50, ge=0, description="Steps between checkpoints; 0 saves at the end of a stage only.")
    keep: int = Field(2, ge=1, description="Checkpoints kept; the newest always is.")
    background: bool = Field(
        False,
        description="Write the tensors of the trainer while the training goes on, from a copy in main memory; the next "
        "checkpoint, and the end of a stage, wait for the one under way (docs/scale.md).",
    )

    effects: ClassVar[Mapping[str, When]] = {"background": When(lambda s, _: s.every > 0, "`every` above 0")}


class ReportConfig(Strict):
    """What is stored for the report."""

    samples_every: int = Field(10, ge=0, description="Steps between stored sample groups; 0 stores none.")
    keep: int = Field(
        100,
        ge=4,
        description="Steps whose samples are kept, and as many evaluations: of more, the first, the newest and others "
        "evenly between them stay.",
    )
    groups: int = Field(4, ge=0, description="Groups stored each time, the first of the step over all processes.")
    eval_prompts: int = Field(12, ge=0, description="Held-out prompts whose samples are stored at evaluations.")

    effects: ClassVar[Mapping[str, When]] = {
        "samples_every": When(lambda _, run: not run.only_scores, "a stage that samples answers"),
        "keep": When(
            lambda s, run: (
                (s.eval_prompts > 0 and run.data.eval_prompts and run.eval.every > 0)
                or (s.samples_every > 0 and not run.only_scores)
            ),
            "held-out prompts that are evaluated `every` few steps and shown, or a `samples_every` above 0 and a stage "
            "that samples answers",
        ),
        "groups": When(
            lambda s, run: s.samples_every > 0 and not run.only_scores,
            "a `samples_every` above 0, and a stage that samples answers",
        ),
    }
