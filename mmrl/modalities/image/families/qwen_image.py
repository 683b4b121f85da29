"""Qwen-Image: packed latents of a video autoencoder, prompts of any length, guidance that keeps each token's norm."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, padded
from mmrl.modalities.image.families.by_channel import ByChannel
from mmrl.modalities.image.families.flow import JOINT_ATTENTION
from mmrl.modalities.image.families.packed import PackedFamily


class VideoAutoencoder(ByChannel, PackedFamily):
    """An autoencoder of films, given pictures as films of one frame; mean and spread of its latents by channel."""

    def posterior(self, pixels: Tensor) -> Any:
        found = self.vae.encode(pixels.to(self.vae.dtype).unsqueeze(2)).latent_dist
        return SimpleNamespace(**{key: getattr(found, key)[:, :, 0] for key in ("mean", "std", "var", "logvar")})

    def reconstruct(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents.to(self.vae.dtype).unsqueeze(2)).sample[:, :, 0]


LONGEST = 200  # times its shorter side that a picture may be long which a language model of Qwen's reads


def too_long(name: str, size: tuple[int, int], areas: Sequence[int]) -> str | None:
    """Why family `name` cannot show a picture of (width, height) pixels at these areas, in multiples of 32 pixels."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions

    shown = [calculate_dimensions(area, size[0] / size[1]) for area in areas]
    if all(0 < max(sides) <= LONGEST * min(sides) for sides in shown):
        return None
    return (
        f"shows a picture of {size[0]} x {size[1]} pixels, too long for the area at which family {name} shows it; take "
        "a squarer one, or a larger model.source_pixels"
    )


class QwenImage(VideoAutoencoder):
    """No prompt is a blank, as the model's authors have it: the pipeline guides only where a negative one is given."""

    name = "qwen_image"
    pipeline_classes = ("QwenImagePipeline",)
    lora_targets = JOINT_ATTENTION

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.qwen_image import build_qwen_image

        return build_qwen_image(corpus, **options)

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, mask = self.pipeline.encode_prompt(
            [a.text for a in asked], device=self.device, max_sequence_length=self.text_length()
        )
        lengths = [embeds.shape[1]] * len(asked) if mask is None else mask.sum(1).tolist()
        return [{"embeds": embed[:length]} for embed, length in zip(embeds, lengths, strict=True)]

    def encode_against(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        return self.encode([Asked(" " if a.text is None else a.text, a.pictures) for a in asked], size)

    def collate(self, rows: Sequence[Row]) -> Condition:
        embeds, mask = padded([row["embeds"] for row in rows])
        return {"embeds": embeds, "mask": None if bool(mask.all()) else mask}

    def text_length(self) -> int:
        return self.max_sequence_length or min(512, self.pipeline.tokenizer.model_max_length)

    def token_counts(self, text: str) -> list[tuple[int, int]]:
        said = self.pipeline.prompt_template_encode.format(text)
        tokens = len(self.pipeline.tokenizer(said).input_ids) - self.pipeline.prompt_template_encode_start_idx
        return [(tokens, self.text_length())]

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
        return self._denoise(latents, time, condition["embeds"], condition["mask"], [self.token_grid(size)])

    def _denoise(
        self, tokens: Tensor, time: Tensor, embeds: Tensor, mask: Tensor | None, grids: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """Of tokens [b, of all grids, 4 C], the one that is drawn first."""
        return self.denoiser(
            hidden_states=tokens,
            timestep=time / 1000,
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, *grid) for grid in grids]] * len(tokens),
            return_dict=False,
        )[0]

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
        """The usual sum, each token of it brought to the norm that it has in the conditional output."""
        output = super().guide(conditional, unconditional, scale)
        return output * (conditional.norm(dim=-1, keepdim=True) / output.norm(dim=-1, keepdim=True))
