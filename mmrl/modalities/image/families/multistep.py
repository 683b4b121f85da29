"""Families whose published scheduler is a multistep solver: a step of it leans on earlier ones and has no log-prob."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmrl.modalities.image.families.flow import FlowFamily

EULER = "FlowMatchEulerDiscreteScheduler"
# Options of such a solver under which its noise levels are others than the shift makes them.
OTHER_LEVELS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "use_dynamic_shifting",
    "shift_terminal",
)


class Multistep(FlowFamily):
    """Sampled with Euler steps between the noise levels of its solver, or of an Euler scheduler that it has instead.

    `solvers` names both.
    """

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        if not self.is_multistep:
            return
        config = pipeline.scheduler.config
        if not (config.use_flow_sigmas and config.prediction_type == "flow_prediction"):
            raise ValueError(
                f"scheduler {type(pipeline.scheduler).__name__} without use_flow_sigmas and prediction_type "
                f"flow_prediction: family {self.name!r} is a flow; set both in the model's "
                "scheduler/scheduler_config.json"
            )
        for option in OTHER_LEVELS:
            if config.get(option):
                raise ValueError(
                    f"scheduler option {option}: family {self.name!r} samples between the noise levels that the shift "
                    "makes; set it to false in the model's scheduler/scheduler_config.json"
                )

    @property
    def is_multistep(self) -> bool:
        return type(self.pipeline.scheduler).__name__ != EULER

    @property
    def scheduler(self) -> Any:
        """The pipeline's own, or Euler steps with the shift of its multistep solver."""
        own = self.pipeline.scheduler
        if not self.is_multistep:
            return own
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(shift=own.config.flow_shift)

    def sigmas(self, steps: int) -> Any:
        """Those between which the multistep solver steps, before their shift."""
        return self.solver_sigmas(steps) if self.is_multistep else None

    def solver_sigmas(self, steps: int) -> np.ndarray:
        """[steps] from pure noise on."""
        raise NotImplementedError(f"{type(self).__name__}.solver_sigmas")
