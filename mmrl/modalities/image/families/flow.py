"""What the families of rectified flow share: the scheduler's sigmas, and their shift with the number of tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from mmrl.modalities.image.families.asked import Condition, Extent
from mmrl.modalities.image.families.base import Family, Schedule
from mmrl.modalities.image.supervised import flow_matching_loss, logit_normal_times

# Options of the scheduler under which a step of the pipeline is no Euler step of the ODE towards 0.
REFUSED = ("stochastic_sampling", "invert_sigmas")
# Projections of an attention over text and picture together, as diffusers names them.
JOINT_ATTENTION = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip


class FlowFamily(Family):
    """Rectified flow: x_t = (1 - t) x0 + t noise, `predict` gives noise - x0; the scheduler's timestep is 1000 t."""

    is_flow = True
    kernel = "flow_sde"
    solvers: ClassVar[tuple[str, ...]] = ("FlowMatchEulerDiscreteScheduler",)  # schedulers that a pipeline may have

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        scheduler = pipeline.scheduler
        if type(scheduler).__name__ not in self.solvers:
            raise ValueError(
                f"scheduler {type(scheduler).__name__}: family {self.name!r} samples with Euler steps; name "
                "FlowMatchEulerDiscreteScheduler in the model's scheduler/scheduler_config.json"
            )
        for option in REFUSED:
            if scheduler.config.get(option):
                raise ValueError(
                    f"scheduler option {option}: family {self.name!r} samples with Euler steps of the ODE from noise "
                    "to picture; set it to false in the model's scheduler/scheduler_config.json"
                )

    @property
    def scheduler(self) -> Any:
        """The scheduler whose sigmas are sampled with."""
        return self.pipeline.scheduler

    def sigmas(self, steps: int) -> Any:
        """Sigmas [steps] before the scheduler shifts them. Left out: the scheduler's own."""
        return None

    def schedule(self, steps: int, size: Extent) -> Schedule:
        """The scheduler's own sigmas for pictures of this size, on the CPU in float64."""
        scheduler = copy.deepcopy(self.scheduler)
        if steps == 1 and scheduler.config.get("shift_terminal"):
            raise ValueError(
                f"one step: the scheduler of this model stretches its noise levels from the first to the last "
                f"(shift_terminal {scheduler.config.shift_terminal:g}), which are one and the same; sample in 2 steps "
                "or more (model.sampling.steps, model.evaluation.steps)"
            )
        options = {} if (sigmas := self.sigmas(steps)) is None else {"sigmas": sigmas}
        if self.shifts_with_size:
            options["mu"] = self.log_shift(size, steps)
        scheduler.set_timesteps(num_inference_steps=steps, device="cpu", **options)
        return Schedule(scheduler.timesteps.double(), scheduler.sigmas.double())

    @property
    def shifts_with_size(self) -> bool:
        return bool(self.scheduler.config.use_dynamic_shifting)

    def token_grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of tokens for a picture of (height, width) pixels."""
        side = self.cell * self.patch
        return size[0] // side, size[1] // side

    def tokens(self, size: Sequence[int]) -> int | None:
        return math.prod(self.token_grid(size))

    def log_shift(self, size: Extent, steps: int = 50) -> float:
        """mu of the resolution-dependent shift: linear in the number of tokens, 0.5 at 256 and 1.15 at 4096.

        The four numbers are the scheduler's own; the number of steps matters to other families. Source: FLUX.1's
        reference sampler.
        """
        config = self.scheduler.config
        low, high = config.base_image_seq_len, config.max_image_seq_len
        start, end = config.base_shift, config.max_shift
        return start + (end - start) * (math.prod(self.token_grid(size)) - low) / (high - low)

    def shift(self) -> float:
        """Shift of the sampling times, for supervised times to follow: the one at the native size where it depends on
        resolution, the scheduler's constant otherwise."""
        config = self.scheduler.config
        if not self.shifts_with_size:
            return float(config.shift or 1.0)
        mu = self.log_shift(Extent(*self.native_size(), self.native_frames))
        return mu if config.time_shift_type == "linear" else math.exp(mu)

    def denoising_loss(
        self,
        clean: Tensor,
        noise: Tensor,
        draws: Tensor,
        condition: Condition,
        size: Extent,
        shift: float | None = None,
    ) -> Tensor:
        """Flow matching at logit-normal times."""
        times = logit_normal_times(draws, shift or self.shift()).to(clean.device)
        t = times.view(-1, *[1] * (clean.ndim - 1))
        velocity = self.predict((1 - t) * clean + t * noise, times * 1000, condition, size)
        return flow_matching_loss(velocity, clean, noise)
