"""Z-Image: one stream of text and picture, rectified flow whose time and output run the other way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.modalities import hollow
from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, padded
from mmrl.modalities.image.families.flow import FlowFamily

NATIVE = 1024  # pixels a side that the pipeline draws when none are named


class ZImage(FlowFamily):
    """The denoiser takes lists: latents [C, 1, h, w] and embeddings [L_i, d] of each prompt's own length."""

    name = "z_image"
    pipeline_classes = ("ZImagePipeline",)
    guidance_off = 0.0

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.z_image import build_z_image

        return build_z_image(corpus, **options)

    @property
    def patch(self) -> int:
        return 2

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.denoiser.layers)  # others see the text alone, or the picture before any text

    def of_picture(self, block: nn.Module, tokens: Tensor, size: Extent) -> Tensor:
        """They stand first; texts behind them are as long as the longest of those that are seen together."""
        return tokens[:, : self.tokens(size)]

    @property
    def block_width(self) -> int:
        return int(self.denoiser.config.dim)

    def native_size(self) -> tuple[int, int]:
        return NATIVE, NATIVE

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, _ = self.pipeline.encode_prompt(
            [a.text for a in asked],
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length(),
        )
        return [{"embeds": embed} for embed in embeds]

    def collate(self, rows: Sequence[Row]) -> Condition:
        return {"embeds": [row["embeds"] for row in rows]}

    def text_length(self) -> int:
        return self.max_sequence_length or min(512, self.pipeline.tokenizer.model_max_length)

    def token_counts(self, text: str) -> list[tuple[int, int]]:
        tokenizer = self.pipeline.tokenizer
        said = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return [(len(tokenizer(said).input_ids), self.text_length())]

    def sigmas(self, steps: int) -> Any:
        return torch.linspace(1.0, 1 / steps, steps).tolist()

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        with _light_padding() if hollow.is_hollow(self.denoiser) else nullcontext():
            found = self.denoiser(
                list(latents.unsqueeze(2).unbind(0)), (1000 - time) / 1000, condition["embeds"], return_dict=False
            )[0]
        return -torch.stack(list(found)).squeeze(2)

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
        """conditional + scale (conditional - unconditional): a scale of 5 is one of 6 elsewhere."""
        return conditional + scale * (conditional - unconditional)


@contextmanager
def _light_padding() -> Iterator[None]:
    """For a model without weights: torch's own padding of sequences makes tensors that take memory out of those that
    take none."""
    from diffusers.models.transformers import transformer_z_image

    theirs: Any = transformer_z_image
    own = theirs.pad_sequence

    def pad_sequence(values: Sequence[Tensor], batch_first: bool, padding_value: float) -> Tensor:
        assert batch_first and padding_value == 0
        return padded(values)[0]

    theirs.pad_sequence = pad_sequence
    try:
        yield
    finally:
        theirs.pad_sequence = own
