"""Stable Diffusion 1.x, 2.x and XL: UNet, epsilon or v prediction, sampled with DDIM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.modalities.image.families.base import Condition, Family, Schedule
from mmrl.modalities.image.kernels import Prediction


class UNetFamily(Family):
    """Discrete-time diffusion: x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise, a_t the cumulative alpha.

    The sampler is DDIM; of the pipeline's own scheduler only the training noise and the spacing are used.
    """

    is_flow = False
    kernel = "ddim"
    noise_level = 1.0
    part = "unet"

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        scheduler = pipeline.scheduler
        if "beta_start" not in scheduler.config:
            raise ValueError(
                f"scheduler {type(scheduler).__name__} has no beta_start: family {self.name!r} samples with "
                "DDIM on discrete noise levels, which EDM and flow checkpoints lack; use a model with a "
                "DDPM-type scheduler"
            )
        if self.denoiser.config.time_cond_proj_dim is not None:
            raise ValueError(
                "the UNet takes an embedded guidance value (time_cond_proj_dim), as consistency models do; "
                f"family {self.name!r} has no such input; use the model it was distilled from"
            )

    @property
    def prediction(self) -> Prediction:
        """What the denoiser's output means."""
        return self.pipeline.scheduler.config.prediction_type

    def native_size(self) -> tuple[int, int]:
        side, factor = self.denoiser.config.sample_size, self.pipeline.vae_scale_factor
        height, width = (side, side) if isinstance(side, int) else side
        return height * factor, width * factor

    def alphas_cumprod(self) -> Tensor:
        """[training timesteps] float64: cumulative alpha of each training timestep."""
        return self._ddim().alphas_cumprod.double()

    def schedule(self, steps: int, size: tuple[int, int]) -> Schedule:
        """DDIM's timesteps with the cumulative alpha of each, and the scheduler's final alpha after the last.

        A step always lands where the next one starts, also where the spacing does not divide the training
        timesteps. ValueError where the last step would not move (it starts at the final alpha already).
        """
        scheduler = self._ddim()
        scheduler.set_timesteps(steps, device="cpu")
        visited = scheduler.alphas_cumprod[scheduler.timesteps]
        level = torch.cat([visited, scheduler.final_alpha_cumprod.reshape(1)]).double()
        if level[-1] <= level[-2]:
            raise ValueError(
                f"the last of {steps} DDIM steps starts at timestep {int(scheduler.timesteps[-1])} and its "
                "target is no cleaner; in the scheduler's config, set steps_offset 1 or set_alpha_to_one true"
            )
        return Schedule(scheduler.timesteps.double(), level)

    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        return DDIMScheduler.from_config(self.pipeline.scheduler.config)


class StableDiffusion(UNetFamily):
    name = "sd"
    pipeline_classes = ("StableDiffusionPipeline",)

    def encode(self, texts: Sequence[str], size: tuple[int, int]) -> Condition:
        embeds, _ = self.pipeline.encode_prompt(
            list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"embeds": embeds}

    def predict(self, latents: Tensor, time: Tensor, condition: Condition, size: tuple[int, int]) -> Tensor:
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

    def encode(self, texts: Sequence[str], size: tuple[int, int]) -> Condition:
        """Embeddings, pooled text, time ids; an empty text is zeros where the pipeline's config says so."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if self.pipeline.config.force_zeros_for_empty_prompt:
            empty = torch.tensor([text == "" for text in texts], device=embeds.device)
            embeds = embeds.masked_fill(empty[:, None, None], 0.0)
            pooled = pooled.masked_fill(empty[:, None], 0.0)
        # Original size, top left of the crop, target size: a picture that was neither scaled nor cropped.
        time_ids = torch.tensor([*size, 0, 0, *size], dtype=torch.float32, device=embeds.device)
        return {"embeds": embeds, "pooled": pooled, "time_ids": time_ids.expand(len(texts), -1)}

    def predict(self, latents: Tensor, time: Tensor, condition: Condition, size: tuple[int, int]) -> Tensor:
        return self.denoiser(
            latents,
            time,
            encoder_hidden_states=condition["embeds"],
            added_cond_kwargs={"text_embeds": condition["pooled"], "time_ids": condition["time_ids"]},
            return_dict=False,
        )[0]
