"""What a stage's teacher draws of the held-out prompts: once, to be seen beside what the policy draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmrl.config import ConfigError
from mmrl.modalities.adapter import Unsupported
from mmrl.training.evaluation.scores import evaluate
from mmrl.training.stages.base import Stage
from mmrl.types import Group, Prompt

TEACHER = "teacher"  # its samples are stored as those of an evaluation of this name


def show_teacher(stage: Stage[Any], steps: int, guidance: float | None) -> dict[str, float]:
    """Evaluate the stage's reference as the policy is evaluated, from the same noise, by `steps` of the ODE; see
    scores.evaluate for what it returns and stores.

    Raises ConfigError where nothing is held out, or the adapter samples by no ODE.
    """
    run = stage.run
    if not (run.eval_rewards and run.data.eval_prompts):
        raise ConfigError(
            f"stage {stage.options.name!r}: teacher_steps: there are no held-out prompts to draw, or no rewards for "
            "them; set data.eval_prompts, or leave it out"
        )

    def draw(prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        return run.adapter.evaluate_in(prompts, n, seed, steps, guidance)

    try:
        with stage.acting("reference"):
            return evaluate(run, TEACHER, draw=draw)
    except Unsupported as error:
        raise ConfigError(f"stage {stage.options.name!r}: {error}") from None
