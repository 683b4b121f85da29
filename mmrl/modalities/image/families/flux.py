"""FLUX.1 (dev, schnell, Kontext): rectified flow on packed latents, a CLIP and a T5 encoder, distilled guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, Source, rows_of, scaled
from mmrl.modalities.image.families.base import Guidance
from mmrl.modalities.image.families.flow import JOINT_ATTENTION
from mmrl.modalities.image.families.packed import Rows, ShowingFamily


class Flux(ShowingFamily):
    """The denoiser of dev takes the guidance as an input; that of schnell has none."""

    name = "flux"
    long_tokenizer = "tokenizer_2"
    pipeline_classes = ("FluxPipeline",)
    guidances: ClassVar[tuple[Guidance, ...]] = ("embedded", "passes")
    true_cfg = True
    lora_targets = JOINT_ATTENTION

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        self.guidance = "embedded" if self.denoiser.config.guidance_embeds else "passes"

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.flux import build_flux

        return build_flux(corpus, **options)

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, pooled, _ = self.pipeline.encode_prompt(
            [a.text for a in asked], device=self.device, max_sequence_length=self.text_length()
        )
        return rows_of({"embeds": embeds, "pooled": pooled})

    def text_length(self) -> int:
        return self.max_sequence_length or min(512, self.pipeline.tokenizer_2.model_max_length)

    def sigmas(self, steps: int) -> Any:
        return np.linspace(1.0, 1 / steps, steps)

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        embeds, pooled = condition["embeds"], condition["pooled"]
        value = self.guidance_off if guidance is None else guidance

        def denoise(rows: Rows, tokens: Tensor, places: Tensor) -> Tensor:
            return self.denoiser(
                hidden_states=tokens,
                timestep=time[rows] / 1000,
                guidance=torch.full_like(time[rows], value) if self.guidance == "embedded" else None,
                encoder_hidden_states=embeds[rows],
                pooled_projections=pooled[rows],
                txt_ids=latents.new_zeros(embeds.shape[1], 3),
                img_ids=places,
                return_dict=False,
            )[0]

        return self.beside(latents, self._places(self.token_grid(size)).to(latents), condition, denoise)

    @staticmethod
    def _places(grid: tuple[int, int], number: int = 0) -> Tensor:
        """[tokens, 3]: which picture (0 is the one that is drawn), row and column, for the rotary embedding."""
        token = torch.arange(grid[0] * grid[1])
        return torch.stack([torch.full_like(token, number), token // grid[1], token % grid[1]], dim=-1)


class FluxKontext(Flux):
    """Kontext: FLUX.1 dev that is shown a picture, whose latents stand behind those that are drawn."""

    name = "flux_kontext"
    pipeline_classes = ("FluxKontextPipeline",)
    pictures = (0, 1)

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.flux import build_flux_kontext

        return build_flux_kontext(corpus, **options)

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        rows = super().encode(asked, size)
        return [{**row, **self._source(a.pictures)} for row, a in zip(rows, asked, strict=True)]

    @torch.no_grad()
    def _source(self, pictures: Sequence[Source]) -> Row:
        if not pictures:
            return {}
        image, (width, height) = pictures[0].image, self.shown_size(pictures[0].image.size)
        processor = self.pipeline.image_processor
        pixels = processor.preprocess(processor.resize(image, height, width), height, width)
        places = self._places(self.token_grid((height, width)), 1)
        return {"source": self.encode_pixels(pixels.to(self.device))[0], "places": places.to(self.device)}

    def shown_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which a picture of this size is shown: of the pipeline's list, the one whose ratio of
        sides, in whole tokens, is nearest; with model.source_pixels, of that area at most."""
        step = self.cell * self.patch
        if self.source_pixels is not None:
            return scaled(size, self.source_pixels, step)
        from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

        width, height = (max(step, side // step * step) for side in size)  # whole tokens, of which it takes the ratio
        ratio = width / height
        width, height = min(PREFERRED_KONTEXT_RESOLUTIONS, key=lambda one: (abs(ratio - one[0] / one[1]), one))
        return width // step * step, height // step * step
