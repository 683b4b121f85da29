"""One denoising step of the policy as a Gaussian: the code that rollout and replay share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mmrl.modalities.image import kernels
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families.asked import Condition, Extent
from mmrl.modalities.image.families.base import Family, Schedule
from mmrl.modalities.image.guidance import Scales
from mmrl.modalities.image.kernels import Transition

DEFAULT_LEVEL = {"flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.7, "renoise": 1.0, "ddim": 1.0}


class StepPolicy:
    """The distribution of the next latent given this one, for one family and one `sampling:` section."""

    def __init__(self, family: Family, config: ModelConfig) -> None:
        sampling = config.sampling
        self.family = family
        self.sampling = sampling
        self.kernel = sampling.kernel or family.kernel
        if (self.kernel == "ddim") == family.is_flow:
            right = "flow_sde, dance_sde, cps or renoise" if family.is_flow else "ddim"
            raise ValueError(f"model.sampling.kernel {self.kernel!r} does not fit {family.name}; use {right}")
        self.spec = kernels.find_kernel(self.kernel)
        self.level = sampling.noise_level if sampling.noise_level is not None else DEFAULT_LEVEL[self.kernel]
        self.reduction = sampling.logp_reduction or self.spec.reduction
        self.storage: torch.dtype = getattr(torch, sampling.storage)
        self.dtype: torch.dtype = getattr(torch, config.dtype)  # what the forward computes in
        scale = family.guidance_off if sampling.guidance is None else sampling.guidance
        self.scales = Scales(scale, sampling.true_cfg or 1.0)
        evaluation = {key: getattr(config.evaluation, key) for key in Scales._fields}
        self.eval_scales = self.scales._replace(**{k: v for k, v in evaluation.items() if v is not None})
        self.both_branches = sampling.guidance_gradient == "both"  # whether the unconditional one gets gradient too
        self._check_options()

    def _check_options(self) -> None:
        """Refuse what has no meaning, or no effect, with this kernel."""
        where = "model.sampling."
        if self.sampling.ratio_norm and not (self.spec.normalised and self.reduction == "mean"):
            raise ValueError(
                f"{where}ratio_norm corrects the mean of a normalised log-density; kernel {self.kernel} with "
                f"logp_reduction {self.reduction} gives another number: leave one of them out"
            )
        if self.sampling.kl_published and self.kernel not in ("flow_sde", "dance_sde"):
            raise ValueError(
                f"{where}kl_published leaves |dt| out of std = g sqrt(|dt|), which kernel {self.kernel} does not have; "
                "leave it out"
            )
        family, scale = self.family, self.scales.guidance
        self._check_true_cfg()
        if family.guidance == "none" and max(scale, self.eval_scales.guidance) > family.guidance_off:
            raise ValueError(
                f"{where}guidance: this model of family {family.name} is distilled to sample without it; leave it out"
            )
        if self.both_branches and self.second(self.scales) is None:
            raise ValueError(
                f"{where}guidance_gradient both: guidance {scale:g} of family {family.name} runs no unconditional "
                "branch; leave it out"
            )
        if self.sampling.guidance_rescale and not family.rescales:
            raise ValueError(
                f"{where}guidance_rescale is of the pipelines of sd and sdxl, that of {family.name} has none; "
                "leave it out"
            )
        beside = max(self.scales.true_cfg, self.eval_scales.true_cfg) > 1
        if self.sampling.negative_prompt is not None and family.guidance != "passes" and not beside:
            fix = f"give {where}true_cfg, or leave it out" if family.true_cfg else "leave it out"
            why = (
                "takes its guidance as an input" if family.guidance == "embedded" else "is distilled to sample without"
            )
            raise ValueError(
                f"{where}negative_prompt: this model of family {family.name} {why}, and runs no unconditional branch; "
                f"{fix}"
            )

    def _check_true_cfg(self) -> None:
        """Refuse a second forward beside guidance that is not embedded, or where the pipeline has none."""
        family, (name, scales) = self.family, ("sampling", self.scales)
        if scales.true_cfg <= 1:
            name, scales = "evaluation", self.eval_scales
        if scales.true_cfg <= 1 or (family.true_cfg and family.guidance == "embedded"):
            return
        why = {
            "passes": "guides by a second forward already; give its scale as `guidance`",
            "embedded": "has no second forward beside the guidance that it takes as an input; leave it out",
            "none": "is distilled to sample without guidance; leave it out",
        }[family.guidance]
        raise ValueError(f"model.{name}.true_cfg: this model of family {family.name} {why}")

    @property
    def clip_range(self) -> float:
        """The clip range that belongs to the kernel's log-probability."""
        assert self.spec.clip_range is not None, "a kernel that has a log-probability has one"
        return self.spec.clip_range

    def second(self, scales: Scales) -> float | None:
        """The scale of a second, unconditional forward, or None where there is none."""
        if self.family.guidance == "embedded":
            return scales.true_cfg if scales.true_cfg > 1 else None
        return scales.guidance if self.family.is_guided(scales.guidance) else None

    def autocast(self) -> AbstractContextManager[None]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.family.device.type, dtype=self.dtype)

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        scales: Scales,
        size: Extent,
        unconditional: Condition | None = None,
        empty: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(guided output of the denoiser, its unconditional part or None without guidance), float32.

        Two forwards rather than one of twice the size: the unconditional one needs no graph unless asked for, and
        is left out where its output under these weights is known (`empty`).
        """
        family = self.family
        value = scales.guidance if family.guidance == "embedded" else None
        with self.autocast():
            output = family.predict(latents, time, condition, size, value).float()
            if empty is None:
                if unconditional is None:
                    return output, None
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.both_branches):
                    empty = family.predict(latents, time, unconditional, size, value).float()
        scale = self.second(scales)
        assert scale is not None, "an unconditional output has been asked for"
        return family.guide(output, empty, scale, self.sampling.guidance_rescale), empty

    def transition(
        self, latents: Tensor, output: Tensor, schedule: Schedule, steps: Tensor, stochastic: bool = True
    ) -> Transition:
        """N(mean, std) of the next latent from step indices `steps` [b]; without noise, the ODE or DDIM 0."""
        level = schedule.level.to(latents.device)
        now, after = level[steps].float(), level[steps + 1].float()
        if self.kernel == "ddim":
            eta = self.level if stochastic else 0.0
            return kernels.ddim(latents, output, now, after, eta, self.family.prediction)
        if not stochastic:
            return kernels.ode(latents, output, now, after)
        if self.kernel == "flow_sde":
            return kernels.flow_sde(latents, output, now, after, self.level, float(schedule.level[1]))
        return self.spec.function(latents, output, now, after, self.level)

    def log_prob(self, latents_next: Tensor, transition: Transition) -> Tensor:
        """[b] float32: log-density of the next latents, reduced over elements as the kernel does."""
        return kernels.log_prob(latents_next, transition, self.reduction, self.spec.normalised)

    def kl(self, transition: Transition, reference: Transition) -> Tensor:
        """[b]: KL of the step to the reference's, the exact Gaussian one unless the config asks otherwise."""
        return kernels.gaussian_kl(
            transition.mean,
            reference.mean,
            transition.std,
            self.reduction,
            published_flow_grpo=self.sampling.kl_published,
            **({"dt": transition.dt} if self.sampling.kl_published else {}),
        )
