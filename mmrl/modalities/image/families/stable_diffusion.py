"""Stable Diffusion 1.x, 2.x and XL: UNet, epsilon or v prediction, sampled with DDIM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, rows_of
from mmrl.modalities.image.families.base import Family, Schedule
from mmrl.modalities.image.supervised import denoising_loss

PREDICTIONS = ("epsilon", "v_prediction", "sample")

# Options of a scheduler that its pipeline would sample with, and that DDIM has no word for: with them set, the same
# weights draw other pictures.
REFUSED = (
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas",
    "thresholding", "clip_sample",
)  # fmt: skip


class UNetFamily(Family):
    """Discrete-time diffusion: x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise, a_t the cumulative alpha.

    The sampler is DDIM; of the pipeline's own scheduler only the training noise and the spacing are used.
    """

    is_flow = False
    kernel = "ddim"
    policies = {"denoiser": "unet"}
    takes_length = False
    rescales = True

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        scheduler = pipeline.scheduler
        if "beta_start" not in scheduler.config:
            raise ValueError(
                f"scheduler {type(scheduler).__name__} has no beta_start: family {self.name!r} samples with "
                "DDIM on discrete noise levels, which EDM and flow checkpoints lack; use a model with a "
                "DDPM-type scheduler"
            )
        self._check_scheduler(scheduler)
        self.prediction = scheduler.config.prediction_type
        if self.denoiser.config.time_cond_proj_dim is not None:
            raise ValueError(
                "the UNet takes an embedded guidance value (time_cond_proj_dim), as consistency models do; "
                f"family {self.name!r} has no such input; use the model it was distilled from"
            )

    def _check_scheduler(self, scheduler: Any) -> None:
        config = scheduler.config
        found = [f"{option} true" for option in REFUSED if config.get(option)]
        found += ["final_sigmas_type sigma_min"] if config.get("final_sigmas_type") == "sigma_min" else []
        found += ["timestep_type continuous"] if config.get("timestep_type") == "continuous" else []
        if config.prediction_type not in PREDICTIONS:
            found.append(f"prediction_type {config.prediction_type}")
        if found:
            raise ValueError(
                f"{type(scheduler).__name__} with {', '.join(found)}: family {self.name!r} samples with DDIM, which "
                "has no such option; change it in the model's scheduler/scheduler_config.json"
            )

    @property
    def block_names(self) -> tuple[str, ...]:
        unet = self.denoiser
        return tuple(sorted({type(block).__name__ for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)}))

    def native_size(self) -> tuple[int, int]:
        side, factor = self.denoiser.config.sample_size, self.pipeline.vae_scale_factor
        height, width = (side, side) if isinstance(side, int) else side
        return height * factor, width * factor

    def alphas_cumprod(self) -> Tensor:
        """[training timesteps] float64: cumulative alpha of each training timestep."""
        return self._ddim().alphas_cumprod.double()

    def schedule(self, steps: int, size: Extent) -> Schedule:
        """DDIM's timesteps with the cumulative alpha of each, and the scheduler's final alpha after the last.

        A step always lands where the next one starts, also where the spacing does not divide the training
        timesteps. ValueError where the last step would not move (it starts at the final alpha already).
        """
        scheduler = self._ddim()
        scheduler.set_timesteps(steps, device="cpu")
        visited = scheduler.alphas_cumprod[scheduler.timesteps]
        level = torch.cat([visited, scheduler.final_alpha_cumprod.reshape(1)]).double()
        if level[0] == 0 and self.prediction == "epsilon":
            raise ValueError(
                "the first step starts at pure noise (rescale_betas_zero_snr), of which an epsilon prediction says "
                "nothing; in the scheduler's config, set rescale_betas_zero_snr false or the model's prediction_type"
            )
        if level[-1] <= level[-2]:
            raise ValueError(
                f"the last of {steps} DDIM steps starts at timestep {int(scheduler.timesteps[-1])} and its "
                "target is no cleaner; in the scheduler's config, set steps_offset 1 or set_alpha_to_one true"
            )
        return Schedule(scheduler.timesteps.double(), level)

    def denoising_loss(
        self,
        clean: Tensor,
        noise: Tensor,
        draws: Tensor,
        condition: Condition,
        size: Extent,
        shift: float | None = None,
    ) -> Tensor:
        """Denoising at uniform timesteps, which know no shift."""
        return denoising_loss(self, clean, noise, torch.special.ndtr(draws), condition, size)

    def latent_scale(self) -> tuple[Any, Any]:
        return 0.0, self.vae.config.scaling_factor  # these pipelines know no shift, whatever the VAE's config says

    def standardise(self, latents: Tensor) -> None:
        self.vae.register_to_config(scaling_factor=float(1 / latents.std()))

    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        return DDIMScheduler.from_config(self.pipeline.scheduler.config)


class StableDiffusion(UNetFamily):
    name = "sd"
    pipeline_classes = ("StableDiffusionPipeline",)

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.stable_diffusion import build_sd

        return build_sd(corpus, **options)

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, _ = self.pipeline.encode_prompt(
            [a.text for a in asked], device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return rows_of({"embeds": embeds})

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        return self.denoiser(latents, time, encoder_hidden_states=condition["embeds"], return_dict=False)[0]


class StableDiffusionXL(UNetFamily):
    """Two CLIP encoders; the UNet is also told the pooled text and the picture's size and crop."""

    name = "sdxl"
    pipeline_classes = ("StableDiffusionXLPipeline",)

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        if self.vae.config.force_upcast:
            # The published VAE overflows in float16.
            self.vae.float()

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.stable_diffusion import build_sdxl

        return build_sdxl(corpus, **options)

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            [a.text for a in asked], device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return rows_of({"embeds": embeds, "pooled": pooled})

    def encode_against(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        """No prompt is zeros where the pipeline's config says so, else the empty text."""
        rows = super().encode_against(asked, size)
        if not self.pipeline.config.force_zeros_for_empty_prompt:
            return rows
        blank = [{key: torch.zeros_like(value) for key, value in row.items()} for row in rows]
        return [zeros if a.text is None else row for a, row, zeros in zip(asked, rows, blank, strict=True)]

    def latent_scale(self) -> tuple[Any, Any]:
        """With a mean and a standard deviation for each channel where the VAE's config has both."""
        config = self.vae.config
        if config.latents_mean is None or config.latents_std is None:
            return super().latent_scale()
        mean, std = (
            torch.tensor(values, device=self.vae.device).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, config.scaling_factor / std

    def standardise(self, latents: Tensor) -> None:
        axes = (0, 2, 3)
        self.vae.register_to_config(
            scaling_factor=1.0, latents_mean=latents.mean(axes).tolist(), latents_std=latents.std(axes).tolist()
        )

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        # Original size, top left of the crop, target size: a picture that was neither scaled nor cropped.
        time_ids = torch.tensor([*size[:2], 0, 0, *size[:2]], dtype=torch.float32, device=latents.device)
        return self.denoiser(
            latents,
            time,
            encoder_hidden_states=condition["embeds"],
            added_cond_kwargs={"text_embeds": condition["pooled"], "time_ids": time_ids.expand(len(latents), -1)},
            return_dict=False,
        )[0]
