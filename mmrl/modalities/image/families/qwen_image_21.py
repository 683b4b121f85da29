"""Qwen-Image-2.1: one sequence of text, shown pictures and the one that is drawn, which comes last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, grouped
from mmrl.modalities.image.families.qwen_image import VideoAutoencoder, too_long

AREA = 1024 * 1024  # pixels of a shown picture
SLOT = 4  # latents that stand at one place of the language model's pictures


class QwenImage21(VideoAutoencoder):
    """Latents are [b, tokens, C], not in blocks. Pictures have a fourth channel, how opaque they are.

    Where the picture that is drawn lies in the rotary embedding depends on the length of the text before it, padding
    included: rows of different lengths go through the denoiser one length after another, so that none depends on its
    neighbours.
    """

    name = "qwen_image_21"
    pipeline_classes = ("QwenImage21Pipeline",)
    lora_targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
    pictures = (0, 10)
    takes_length = False

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.qwen_image_21 import build_qwen_image_21

        return build_qwen_image_21(corpus, **options)

    # ---------------------------------------------------------------- sizes and noise levels

    def of_picture(self, block: nn.Module, tokens: Tensor, size: Extent) -> Tensor:
        """They come last."""
        return tokens[:, -math.prod(self.token_grid(size)) :]

    @property
    def patch(self) -> int:
        return 1

    def native_size(self) -> tuple[int, int]:
        return 1024, 1024

    def check_size(self, size: Extent) -> None:
        step = 2 * self.cell
        if any(s % step or s <= 0 for s in size[:2]):
            raise ValueError(f"size {size[:2]}: each side must be a multiple of {step} pixels for this model")

    def sigmas(self, steps: int) -> Any:
        """Those of the pipeline's config, where it has some: models of few steps."""
        own = self.pipeline.config.sample_sigmas
        if own is None:
            return torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).numpy()
        if len(own) != steps:
            raise ValueError(
                f"this model has {len(own)} noise levels of its own (sample_sigmas): sample in {len(own)} steps"
            )
        return own

    # ---------------------------------------------------------------- conditions

    def picture_problem(self, size: tuple[int, int]) -> str | None:
        return too_long(self.name, size, [self.source_pixels or AREA])

    def shown_size(self, size: tuple[int, int]) -> tuple[int, int]:
        from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import calculate_dimensions

        width, height, _ = calculate_dimensions(self.source_pixels or AREA, size[0] / size[1])
        return width, height

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        return [self._one(a) for a in asked]

    def _one(self, asked: Asked) -> Row:
        """{"embeds": [L, d], "slots": [L], where pictures stand, "grids": [pictures, 2]} and "source" [tokens, C]."""
        processor = self.pipeline.image_processor
        seen, source, grids = [], [], []
        for picture in asked.pictures:
            image = picture.image.convert("RGBA")
            width, height = self.shown_size(image.size)
            seen.append(processor.resize(image, width=width, height=height))
            source.append(self._latents(image, (height, width)))
            grids.append(self.token_grid((height, width)))
        embeds, _, slots = self.pipeline.encode_prompt([asked.text], image=seen or None, device=self.device)
        row = {"embeds": embeds[0], "slots": slots[0].bool(), "grids": torch.tensor(grids).view(-1, 2)}
        return {**row, "source": torch.cat(source)} if source else row

    @torch.no_grad()
    def _latents(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        pixels = self.pipeline.image_processor.preprocess(image, width=size[1], height=size[0])
        return self.encode_pixels(pixels.to(self.device))[0]

    def collate(self, rows: Sequence[Row]) -> Condition:
        shapes = [(tuple(row["slots"].tolist()), tuple(map(tuple, row["grids"].tolist()))) for row in rows]
        return {"rows": rows, "shapes": shapes}

    def unread(self, text: str) -> int | None:
        return None  # nothing is cut

    # ---------------------------------------------------------------- the denoiser

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        rows, shapes = condition["rows"], condition["shapes"]
        own = self.token_grid(size)

        def some(chosen: list[int]) -> Tensor:
            """Of rows with texts of one length and pictures of the same sizes at the same places."""
            first, (_, grids) = rows[chosen[0]], shapes[chosen[0]]
            tokens = latents[chosen]
            if grids:
                tokens = torch.cat([torch.stack([rows[row]["source"] for row in chosen]).to(tokens), tokens], dim=1)
            slots = torch.cat([first["slots"], first["slots"].new_ones(math.prod(own) // SLOT)])
            found = self.denoiser(
                hidden_states=tokens,
                timestep=time[chosen] / 1000,
                encoder_hidden_states=torch.stack([rows[row]["embeds"] for row in chosen]),
                img_shapes=[[*((1, *grid) for grid in grids), (1, *own)]] * len(chosen),
                img_mask=slots.expand(len(chosen), -1),
                return_dict=False,
            )[0]
            return found[:, -latents.shape[1] :]

        return grouped(shapes, some)

    # ---------------------------------------------------------------- pictures that may be transparent

    def posterior(self, pixels: Tensor) -> Any:
        if pixels.shape[1] == 3:
            pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
        return super().posterior(pixels)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """On white, as mmrl reads transparent pictures everywhere."""
        found = super().reconstruct(latents).clamp(-1, 1)
        opaque = (found[:, 3:] + 1) / 2
        return found[:, :3] * opaque + (1 - opaque)
