"""Qwen-Image-Edit-Plus: shown pictures stand in the prompt of its language model and behind the latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, grouped
from mmrl.modalities.image.families.qwen_image import QwenImage, too_long


class QwenImageEditPlus(QwenImage):
    """Rows also have "source" [tokens, 4 C] of all pictures and "grids" [pictures, 2], their rows and columns."""

    name = "qwen_image_edit_plus"
    pipeline_classes = ("QwenImageEditPlusPipeline",)
    pictures = (1, 10)
    takes_length = False

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.qwen_image import build_qwen_image_edit_plus

        return build_qwen_image_edit_plus(corpus, **options)

    def picture_problem(self, size: tuple[int, int]) -> str | None:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as theirs

        areas = (theirs.CONDITION_IMAGE_SIZE, self.source_pixels or theirs.VAE_IMAGE_SIZE)
        return too_long(self.name, size, areas)

    def shown_size(self, size: tuple[int, int]) -> tuple[int, int]:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as theirs

        width, height = theirs.calculate_dimensions(self.source_pixels or theirs.VAE_IMAGE_SIZE, size[0] / size[1])
        return width, height

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        return [self._one(a) for a in asked]

    def _one(self, asked: Asked) -> Row:
        """The pipeline reads one prompt at a time, as pictures differ in size."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as theirs

        processor = self.pipeline.image_processor
        seen, source, grids = [], [], []
        for picture in asked.pictures:
            ratio = picture.image.width / picture.image.height
            width, height = theirs.calculate_dimensions(theirs.CONDITION_IMAGE_SIZE, ratio)
            seen.append(processor.resize(picture.image, height, width))
            width, height = self.shown_size(picture.image.size)
            with torch.no_grad():
                pixels = processor.preprocess(picture.image, height, width).to(self.device)
                source.append(self.encode_pixels(pixels)[0])
            grids.append(self.token_grid((height, width)))
        embeds, _ = self.pipeline.encode_prompt([asked.text], image=seen, device=self.device)
        return {"embeds": embeds[0], "source": torch.cat(source), "grids": torch.tensor(grids)}

    def collate(self, rows: Sequence[Row]) -> Condition:
        return {"rows": rows, "grids": [tuple(map(tuple, row["grids"].tolist())) for row in rows]}

    def unread(self, text: str) -> int | None:
        return None  # nothing is cut

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        rows, grids = condition["rows"], condition["grids"]
        own = self.token_grid(size)

        def some(chosen: list[int]) -> Tensor:
            """Of rows whose pictures are of the same sizes."""
            told = super(QwenImageEditPlus, self).collate([rows[row] for row in chosen])
            source = torch.stack([rows[row]["source"] for row in chosen]).to(latents)
            tokens = torch.cat([latents[chosen], source], dim=1)
            found = self._denoise(tokens, time[chosen], told["embeds"], told["mask"], [own, *grids[chosen[0]]])
            return found[:, : latents.shape[1]]

        return grouped(grids, some)
