"""Stable Diffusion 3 and 3.5: MMDiT, rectified flow, two CLIP encoders and an optional T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, rows_of
from mmrl.modalities.image.families.flow import JOINT_ATTENTION, FlowFamily


class SD3(FlowFamily):
    name = "sd3"
    long_tokenizer = "tokenizer_3"
    pipeline_classes = ("StableDiffusion3Pipeline",)
    lora_targets = JOINT_ATTENTION

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.sd3 import build_sd3

        return build_sd3(corpus, **options)

    @property
    def patch(self) -> int:
        return self.denoiser.config.patch_size

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            [a.text for a in asked],
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length(),
        )
        return rows_of({"embeds": embeds, "pooled": pooled})

    def text_length(self) -> int:
        return self.max_sequence_length or min(256, getattr(self.pipeline.tokenizer_3, "model_max_length", 256))

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        return self.denoiser(
            hidden_states=latents,
            timestep=time,
            encoder_hidden_states=condition["embeds"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )[0]
