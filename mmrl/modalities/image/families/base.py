"""What differs between families of text-to-image models: prompts, latents, the denoiser's call, the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Condition = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one sampling run of N steps.

    time: [N], what the denoiser is told at each step.
    level: [N + 1], where the sample is before each step and after the last: sigma in [0, 1] (flow), or the
        cumulative alpha (diffusion).
    """

    time: Tensor
    level: Tensor

    def __len__(self) -> int:
        return len(self.time)


class Family:
    """One family of pipelines. Latents are kept in the layout that the denoiser takes, batch first."""

    name: str
    pipeline_classes: tuple[str, ...]
    is_flow: bool
    kernel: str
    noise_level: float
    guidance_embeds: bool = False
    lora_targets: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0")
    long_tokenizer: ClassVar[str | None] = None  # the pipeline's name for that of T5, which reads more than CLIP
    part: ClassVar[str] = "transformer"  # the pipeline's name for its denoiser

    # Pipelines and their models are of diffusers, which this file does not import, and whose classes have no types.
    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        self.pipeline = pipeline
        self.max_sequence_length = max_sequence_length
        pipeline.set_progress_bar_config(disable=True)

    @property
    def denoiser(self) -> Any:
        return getattr(self.pipeline, self.part)

    @property
    def vae(self) -> Any:
        return self.pipeline.vae

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        return {n: m for n in names if (m := getattr(self.pipeline, n, None)) is not None}

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def native_size(self) -> tuple[int, int]:
        side = self.denoiser.config.sample_size * self.pipeline.vae_scale_factor
        return side, side

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise where a size does not fit the model's grid."""
        step = self.pipeline.vae_scale_factor * self.patch
        if any(s % step or s <= 0 for s in size):
            raise ValueError(f"size {size}: each side must be a multiple of {step} pixels for this model")

    @property
    def patch(self) -> int:
        return 1

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one latent for a picture of (height, width) pixels."""
        factor = self.pipeline.vae_scale_factor
        return (self.denoiser.config.in_channels, size[0] // factor, size[1] // factor)

    def encode(self, texts: Sequence[str], size: tuple[int, int]) -> Condition:
        """Everything the denoiser is told about the prompts, each tensor [len(texts), ...]."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def unread(self, text: str) -> int | None:
        """Tokens of the text that are read by the encoder that reads most of it, where that is not all; else None."""
        most = 0
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            tokenizer = getattr(self.pipeline, name, None)
            if tokenizer is not None:
                limit = self.text_length() if name == self.long_tokenizer else tokenizer.model_max_length
                if len(tokenizer(text).input_ids) <= limit:
                    return None
                most = max(most, limit)
        return most

    def text_length(self) -> int:
        """Tokens that the encoder behind `long_tokenizer` is given."""
        raise NotImplementedError(f"{type(self).__name__}.text_length")

    def blank(self, size: tuple[int, int]) -> Condition:
        """What it is told where there is no prompt, each tensor [1, ...]. Left out: the empty text is encoded."""
        return self.encode([""], size)

    def schedule(self, steps: int, size: tuple[int, int]) -> Schedule:
        raise NotImplementedError(f"{type(self).__name__}.schedule")

    def predict(self, latents: Tensor, time: Tensor, condition: Condition, size: tuple[int, int]) -> Tensor:
        """The denoiser's raw output for latents [b, ...] at times [b]."""
        raise NotImplementedError(f"{type(self).__name__}.predict")

    def latent_scale(self) -> tuple[Any, Any]:
        """(shift, scale): the denoiser's latents are (the VAE's - shift) scale. Numbers, or tensors [1, C, 1, 1]."""
        return self.vae.config.shift_factor or 0.0, self.vae.config.scaling_factor

    def standardise(self, latents: Tensor) -> None:
        """Set shift and scale so that these latents of the VAE have mean 0 and variance 1, as far as the family can."""
        self.vae.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Pictures [b, 3, H, W] in [-1, 1] -> latents in the denoiser's layout (the posterior's mean)."""
        shift, scale = self.latent_scale()
        return (self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mean.float() - shift) * scale

    def decode(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents -> pictures [b, 3, H, W], about [-1, 1], float32."""
        shift, scale = self.latent_scale()
        return self.vae.decode((latents / scale + shift).to(self.vae.dtype)).sample.float()
