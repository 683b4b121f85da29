"""The `model:` section of a vision run. No model library is imported here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.environments.opening import opening
from mmrl.media import IMAGE
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.strict import When
from mmrl.types import Prompt

# Whose processors take a smallest and a largest area.
SIZED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5")
# Whose pictures are cut into tiles.
TILED = ("internvl", "idefics3", "smolvlm", "gemma3")
RESIZED = When(lambda s, _: s.build is None or s.build.get("kind", "qwen2_5_vl") in SIZED, "a model of the Qwen family")
CUT = When(lambda s, _: s.build is None or s.build.get("kind", "qwen2_5_vl") in TILED, "a model whose pictures are cut")


class ModelConfig(TokenModelConfig):
    """A vision-language model, how it is sampled and what of it is trained."""

    build: dict[str, Any] | None = Field(
        None,
        description="Build a tiny untrained model from these numbers instead of loading `path`: kind (qwen2_vl, "
        "qwen2_5_vl, qwen3_vl, qwen3_vl_moe, qwen3_5, internvl, idefics3, smolvlm, paligemma, paligemma2, gemma3, "
        "llava_onevision) and the other arguments of vision/tiny.py.",
    )
    vision: Literal["frozen", "trained"] = Field(
        "frozen", description="The vision tower and its projector; frozen ones are computed once per picture."
    )
    min_pixels: int | None = Field(
        None, ge=1, description="Smallest area that the processor makes of a picture (Qwen); null: the processor's."
    )
    max_pixels: int | None = Field(
        None, ge=1, description="Largest area that the processor makes of a picture (Qwen); null: the processor's."
    )
    tiles: int | None = Field(
        None,
        ge=1,
        description="Most tiles of a picture (InternVL), tiles along its long side (Idefics3, SmolVLM), or most crops "
        "of pan and scan, 1 being none (Gemma 3); null: the processor's, for InternVL 12 whatever its files say.",
    )
    space: Literal["auto", "original", "seen", "norm1000", "loc1024", "norm1"] = Field(
        "auto", description="Coordinates that the policy writes; auto: those of its family."
    )
    picture_cache: int = Field(
        512,
        ge=1,
        description="Megabytes of processed pictures that are kept, and as many of what a frozen tower makes of them.",
    )

    effects: ClassVar[Mapping[str, When]] = {
        **TokenModelConfig.effects,
        "min_pixels": RESIZED,
        "max_pixels": RESIZED,
        "tiles": CUT,
    }

    @model_validator(mode="after")
    def _pixels_in_order(self) -> ModelConfig:
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}; swap them")
        if self.vision == "trained" and self.train == "lora":
            raise ValueError("train: lora leaves the vision tower frozen; set vision: frozen, or train: full")
        return self

    def describe(self) -> list[str]:
        """Lines for `mmrl plan`."""
        pixels = f"{self.min_pixels or 'the processor’s'} to {self.max_pixels or 'the processor’s'}"
        tiles = "the processor’s" if self.tiles is None else self.tiles
        told = f"pixels {pixels}, tiles {tiles}, coordinates {self.space}"
        return [*super().describe(), f"pictures: vision tower {self.vision}, {told}"]

    def prompt_check(self) -> Callable[[Prompt], str | None] | None:
        """Whether the chat template takes a prompt; None where the processor's files are not on this machine."""
        from mmrl.modalities.media.encoder import MediaEncoder
        from mmrl.modalities.tokens import loading

        if self.build is not None or importlib.util.find_spec("torchvision") is None:
            return None
        from transformers import AutoProcessor

        try:
            place = loading.source(self, "Qwen/Qwen2.5-VL-3B-Instruct")
            processor = AutoProcessor.from_pretrained(**place, local_files_only=True)
        except OSError:
            return None
        encoder = MediaEncoder(processor, self, sys.maxsize, (IMAGE,))

        def check(prompt: Prompt) -> str | None:
            return encoder.refusal(prompt, opening(prompt, len(prompt.record.get("images") or ())))

        return check
