"""FLUX.2 (dev, klein): packed latents that batch statistics normalise, a language model's layers as the prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, Source, rows_of
from mmrl.modalities.image.families.base import Guidance
from mmrl.modalities.image.families.flow import JOINT_ATTENTION
from mmrl.modalities.image.families.packed import Rows, ShowingFamily

# (slope, start) of mu in the number of tokens: above 4300 tokens, and below it for 200 and for 10 steps.
LARGE = STEPS_200 = (0.00016927, 0.45666666)
STEPS_10 = (8.73809524e-05, 1.89833333)

APART = 10  # times between the pictures of a prompt, and the one that is drawn
SMALLEST, FLATTEST = 64, 8  # pixels of its shorter side, and how many times as long the other may be
LARGEST = 1024 * 1024  # pixels of a picture that a prompt shows; larger ones are shrunk


class Flux2(ShowingFamily):
    """dev: the scale of guidance goes into the denoiser."""

    name = "flux2"
    pipeline_classes = ("Flux2Pipeline",)
    guidance: Guidance = "embedded"
    guidances: ClassVar[tuple[Guidance, ...]] = ("embedded",)
    pictures = (0, 10)
    lora_targets = (*JOINT_ATTENTION, "attn.to_qkv_mlp_proj")

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.flux2 import build_flux2

        return build_flux2(corpus, **options)

    # ---------------------------------------------------------------- prompts, padded to one length that is all read

    def of_picture(self, block: nn.Module, tokens: Tensor, size: Extent) -> Tensor:
        """Behind the text's in the blocks that see both as one sequence."""
        single = block in set(self.denoiser.single_transformer_blocks)
        return super().of_picture(block, tokens[:, self.text_length() :] if single else tokens, size)

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, _ = self.pipeline.encode_prompt(
            [a.text for a in asked], device=self.device, max_sequence_length=self.text_length()
        )
        rows = rows_of({"embeds": embeds})
        return [{**row, **self._sources(a.pictures)} for row, a in zip(rows, asked, strict=True)]

    @torch.no_grad()
    def _sources(self, pictures: Sequence[Source]) -> Row:
        """{"source": [tokens, 4 C], "places": [tokens, 4]} of all pictures, each of them at a time of its own."""
        if not pictures:
            return {}
        latents, places = [], []
        for number, picture in enumerate(pictures):
            pixels = self._prepared(picture.image)
            latents.append(self.encode_pixels(pixels.to(self.device))[0])
            grid = self.token_grid((pixels.shape[2], pixels.shape[3]))
            places.append(self._places(grid, APART * (number + 1)))
        return {"source": torch.cat(latents), "places": torch.cat(places).to(self.device)}

    def picture_problem(self, size: tuple[int, int]) -> str | None:
        if min(size) < SMALLEST or max(size) > FLATTEST * min(size):
            return (
                f"shows a picture of {size[0]} x {size[1]} pixels; family {self.name} takes sides of {SMALLEST} and "
                f"more, at most {FLATTEST} to 1"
            )
        area, step = self.source_pixels or LARGEST, self.cell * self.patch
        if min(size) * min(1.0, math.sqrt(area / (size[0] * size[1]))) < step:
            return (
                f"shows a picture of {size[0]} x {size[1]} pixels, of which {area} leave no side of {step}; raise "
                "model.source_pixels"
            )
        return None

    def shown_size(self, size: tuple[int, int]) -> tuple[int, int]:
        step = self.cell * self.patch
        shrink = min(1.0, math.sqrt((self.source_pixels or LARGEST) / (size[0] * size[1])))
        width, height = (int(side * shrink) // step * step for side in size)
        return width, height

    def _prepared(self, image: Image.Image) -> Tensor:
        """[1, 3, H, W] in [-1, 1]: shrunk to the largest area, cut to whole tokens, as the pipeline does it."""
        processor = self.pipeline.image_processor
        width, height = self.shown_size(image.size)
        image = processor._resize_if_exceeds_area(image, self.source_pixels or LARGEST)
        return processor.preprocess(image, height=height, width=width, resize_mode="crop")

    def text_length(self) -> int:
        return self.max_sequence_length or min(512, _tokenizer(self.pipeline).model_max_length)

    def token_counts(self, text: str) -> list[tuple[int, int]]:
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        messages = format_input([text], self.pipeline.system_message)
        said = self.pipeline.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        return [(len(_tokenizer(self.pipeline)(said[0]).input_ids), self.text_length())]

    # ---------------------------------------------------------------- noise levels

    def sigmas(self, steps: int) -> Any:
        return np.linspace(1.0, 1 / steps, steps)

    def log_shift(self, size: Extent, steps: int = 50) -> float:
        """mu of the shift: linear in the number of tokens, and for pictures of up to 4300 tokens in that of steps.

        Source: FLUX.2's reference sampler, whose numbers these are.
        """
        rows, columns = self.token_grid(size)
        tokens = rows * columns
        if tokens > 4300:
            return LARGE[0] * tokens + LARGE[1]
        many, few = (slope * tokens + start for slope, start in (STEPS_200, STEPS_10))
        slope = (many - few) / 190.0
        return slope * steps + (many - 200.0 * slope)

    # ---------------------------------------------------------------- the denoiser

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        embeds = condition["embeds"]
        value = self.guidance_off if guidance is None else guidance
        words = self._text_places(embeds.shape[1]).to(latents.device)

        def denoise(rows: Rows, tokens: Tensor, places: Tensor) -> Tensor:
            return self.denoiser(
                hidden_states=tokens,
                timestep=time[rows] / 1000,
                guidance=torch.full_like(time[rows], value) if self.guidance == "embedded" else None,
                encoder_hidden_states=embeds[rows],
                txt_ids=words,
                img_ids=places,
                return_dict=False,
            )[0]

        own = self._places(self.token_grid(size)).to(latents.device)
        return self.beside(latents, own, condition, denoise)

    @staticmethod
    def _text_places(length: int) -> Tensor:
        """[length, 4]: the last axis of the rotary embedding counts words."""
        token = torch.arange(length)
        return torch.stack([*[torch.zeros_like(token)] * 3, token], dim=-1)

    @staticmethod
    def _places(grid: tuple[int, int], time: int = 0) -> Tensor:
        """[tokens, 4]: time, row and column of each token, and 0."""
        token = torch.arange(grid[0] * grid[1])
        return torch.stack(
            [torch.full_like(token, time), token // grid[1], token % grid[1], torch.zeros_like(token)], dim=-1
        )

    # ---------------------------------------------------------------- latents

    def latent_scale(self) -> tuple[Any, Any]:
        """Of blocks [1, 4 C, 1, 1], not of the autoencoder's own latents: the statistics of its batch norm."""
        norm = self.vae.bn
        std = torch.sqrt(norm.running_var.view(1, -1, 1, 1) + self.vae.config.batch_norm_eps)
        return norm.running_mean.view(1, -1, 1, 1), 1 / std

    def standardise(self, latents: Tensor) -> None:
        blocks, axes = pixel_unshuffle(latents, self.patch), (0, 2, 3)
        self.vae.bn.running_mean.copy_(blocks.mean(axes))
        self.vae.bn.running_var.copy_(blocks.var(axes))

    def latent_state(self) -> dict[str, Any]:
        return {key: getattr(self.vae.bn, key).tolist() for key in ("running_mean", "running_var")}

    def load_latent_state(self, state: dict[str, Any]) -> None:
        for key, values in state.items():
            held = getattr(self.vae.bn, key)
            held.copy_(torch.tensor(values).to(held))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        shift, scale = self.latent_scale()
        blocks = (pixel_unshuffle(self.vae_latents(pixels), self.patch) - shift) * scale
        return blocks.flatten(2).transpose(1, 2)

    def decode(self, latents: Tensor, size: Extent) -> Tensor:
        shift, scale = self.latent_scale()
        blocks = latents.transpose(1, 2).unflatten(2, self.token_grid(size)) / scale + shift
        return self.reconstruct(pixel_shuffle(blocks, self.patch)).float()


class Flux2Klein(Flux2):
    """klein: a smaller language model; guidance of two passes, or none where the pipeline says that it is distilled."""

    name = "flux2_klein"
    pipeline_classes = ("Flux2KleinPipeline",)
    guidances: ClassVar[tuple[Guidance, ...]] = ("passes", "none")

    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        super().__init__(pipeline, max_sequence_length)
        self.guidance = "none" if pipeline.config.is_distilled else "passes"

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.flux2 import build_flux2_klein

        return build_flux2_klein(corpus, **options)

    def token_counts(self, text: str) -> list[tuple[int, int]]:
        tokenizer = self.pipeline.tokenizer
        said = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return [(len(tokenizer(said).input_ids), self.text_length())]


def _tokenizer(pipeline: Any) -> Any:
    """The tokenizer, also where the pipeline has a processor around it."""
    return getattr(pipeline.tokenizer, "tokenizer", pipeline.tokenizer)
