"""Wan 2.1 and 2.2, text to video: films whose latents have an axis of time; one denoiser, or two by noise level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, grouped, rows_of
from mmrl.modalities.image.families.by_channel import ByChannel
from mmrl.modalities.image.families.multistep import EULER, Multistep
from mmrl.modalities.image.pixels import CLIPS

SECOND, WEIGHTS = "transformer_2", "pytorch_lora_weights.safetensors"
CHUNK = 4  # frames behind the first one that the published encoder takes at a time, whatever it makes of them


class Wan(ByChannel, Multistep):
    """Latents are [b, C, f, h, w], f = 1 + (frames - 1) / the autoencoder's factor of time.

    Of two denoisers (2.2 A14B) the first has the steps whose time is `boundary_ratio` of the scheduler's times or more,
    the second the others; one scale of guidance holds for both. With `expand_timesteps` (2.2 5B) each token has a time,
    the same for all.
    """

    name = "wan"
    pipeline_classes = ("WanPipeline",)
    draws = CLIPS
    native_frames = 81
    solvers = (EULER, "UniPCMultistepScheduler")
    long_tokenizer = "tokenizer"
    latent_axes = 3

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        two = getattr(pipeline, "transformer_2", None) is not None
        ratio = pipeline.config.boundary_ratio
        if pipeline.transformer is None or two != (ratio is not None):
            raise ValueError(
                f"family {self.name!r} has one denoiser (transformer), or a second (transformer_2) with "
                "boundary_ratio, the time from which on it takes over; the pipeline has others (model_index.json)"
            )
        if two:
            self.policies = {"denoiser": "transformer", "denoiser_2": SECOND}
        self.boundary = None if ratio is None else ratio * pipeline.scheduler.config.num_train_timesteps

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.wan import build_wan

        return build_wan(corpus, **options)

    def load_lora(self, source: str, name: str) -> None:
        super().load_lora(source, name)
        if self.boundary is None:
            return
        # Given a folder's name and a subfolder, diffusers takes the file in the folder itself.
        folder = Path(source) / SECOND
        where, below = (str(folder), {}) if folder.is_dir() else (source, {"subfolder": SECOND, "weight_name": WEIGHTS})
        self.pipeline.load_lora_weights(
            where, adapter_name=name, use_safetensors=True, load_into_transformer_2=True, **below
        )

    def save_lora(self, folder: Path, matrices: Mapping[str, tuple[Any, dict[str, Any]]]) -> None:
        """That of a second denoiser in a folder of its own: the pipeline writes and reads one at a time."""
        super().save_lora(folder, {"transformer": matrices["transformer"]})
        if SECOND in matrices:
            super().save_lora(folder / SECOND, {"transformer": matrices[SECOND]})

    # ---------------------------------------------------------------- sizes and noise levels

    def native_size(self) -> tuple[int, int]:
        return 480, 832

    @property
    def cell(self) -> int:
        return int(self.pipeline.vae_scale_factor_spatial)

    @property
    def patch(self) -> int:
        return int(self.denoiser.config.patch_size[1])

    def check_frames(self, frames: int) -> None:
        factor = self._frames_a_latent
        step = max(factor, CHUNK)
        if (frames - 1) % step:
            raise ValueError(
                f"frames {frames}: this model's films have 1 and a multiple of {step} more, such as {1 + step} or "
                f"{1 + 2 * step} (model.sampling.frames, model.evaluation.frames)"
            )

    @property
    def _frames_a_latent(self) -> int:
        return int(self.pipeline.vae_scale_factor_temporal)

    def latent_shape(self, size: Extent) -> tuple[int, ...]:
        channels, height, width = super().latent_shape(size)
        return channels, 1 + (size.frames - 1) // self._frames_a_latent, height, width

    def tokens(self, size: Sequence[int]) -> int | None:
        return math.prod(self.token_grid(size)) * self.latent_shape(Extent(*size))[1]

    def solver_sigmas(self, steps: int) -> np.ndarray:
        return np.linspace(1.0, 1 / self.pipeline.scheduler.config.num_train_timesteps, steps + 1)[:-1]

    # ---------------------------------------------------------------- prompts

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, _ = self.pipeline.encode_prompt(
            [a.text for a in asked],
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length(),
            device=self.device,
        )
        return rows_of({"embeds": embeds})

    def text_length(self) -> int:
        return self.max_sequence_length or min(512, self.pipeline.tokenizer.model_max_length)

    # ---------------------------------------------------------------- the denoiser

    def acting(self, time: float) -> str:
        return "denoiser" if self.boundary is None or time >= self.boundary else "denoiser_2"

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        if self.boundary is None:
            return self._denoise(self.denoiser, latents, time, condition["embeds"])
        names = [self.acting(one) for one in time.tolist()]

        def some(rows: list[int]) -> Tensor:
            model = self.denoisers[names[rows[0]]]
            return self._denoise(model, latents[rows], time[rows], condition["embeds"][rows])

        return grouped(names, some)

    def _denoise(self, model: Any, latents: Tensor, time: Tensor, embeds: Tensor) -> Tensor:
        if self.pipeline.config.expand_timesteps:
            tokens = latents[0, 0].numel() // self.patch**2
            time = time[:, None].expand(-1, tokens)
        return model(hidden_states=latents, timestep=time, encoder_hidden_states=embeds, return_dict=False)[0]
