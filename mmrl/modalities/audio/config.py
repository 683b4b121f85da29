"""The `model:` section of an audio run. No model library is imported here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mmrl.environments.opening import opening
from mmrl.media import AUDIO, IMAGE
from mmrl.modalities.tokens.config import TokenModelConfig
from mmrl.strict import When
from mmrl.types import Prompt

OMNI = ("qwen2_5_omni", "qwen3_omni_moe")
# Whose processors take a sound of any length.
UNBOUNDED = ("voxtral", "qwen3_omni_moe")
SEES = When(lambda s, _: s.build is None or s.build.get("kind", "qwen2_audio") in OMNI, "an Omni thinker")
BOUNDED = When(
    lambda s, _: s.build is None or s.build.get("kind", "qwen2_audio") not in UNBOUNDED,
    "a model that hears so much at once and no more",
)


class ModelConfig(TokenModelConfig):
    """A language model that hears, how it is sampled and what of it is trained."""

    budget: ClassVar[str] = "tokens, those of prompts and sounds included"

    build: dict[str, Any] | None = Field(
        None,
        description="Build a tiny untrained model from these numbers instead of loading `path`: kind (qwen2_audio, "
        "qwen2_5_omni, qwen3_omni_moe, audioflamingo3, voxtral) and the other arguments of audio/tiny.",
    )
    family: str = Field(
        "auto",
        description="auto: by the model_type of the model's config. `path/file.py:Class`: your own subclass of "
        "mmrl.modalities.audio.families.base.Family (docs/audio.md).",
    )
    audio: Literal["frozen", "trained"] = Field(
        "frozen", description="The tower that hears and its projector; frozen ones are computed once per sound."
    )
    vision: Literal["frozen", "trained"] = Field("frozen", description="The tower that sees, of an Omni thinker.")
    channels: str | int = Field(
        "mean", description="What of several channels is heard: their mean, the left one, or one by its number, from 0."
    )
    long_sounds: Literal["refuse", "chunks"] = Field(
        "refuse",
        description="A sound longer than the model hears at once. refuse: its record is bad (data.on_bad_record). "
        "chunks: it is heard in as few parts of equal length as there can be, one behind the other.",
    )
    media_cache: int = Field(
        512,
        ge=1,
        description="Megabytes of decoded sounds that are kept, as many of processed sounds and pictures, and as many "
        "of what a frozen tower makes of them.",
    )

    effects: ClassVar[Mapping[str, When]] = {**TokenModelConfig.effects, "vision": SEES, "long_sounds": BOUNDED}

    @field_validator("channels", mode="before")
    @classmethod
    def _known(cls, channels: Any) -> Any:
        number = type(channels) is int and 0 <= channels < 64  # of those that are read
        if not number and channels not in ("mean", "left"):
            raise ValueError(f"{str(channels)[:20]} is none; write mean, left, or the number of a channel, from 0")
        return channels

    @model_validator(mode="after")
    def _lora_is_of_the_decoder(self) -> ModelConfig:
        for name in ("audio", "vision"):
            if self.train == "lora" and getattr(self, name) == "trained":
                raise ValueError(f"train: lora leaves the towers frozen; set {name}: frozen, or train: full")
        return self

    def describe(self) -> list[str]:
        """Lines for `mmrl plan`."""
        long = "are refused" if self.long_sounds == "refuse" else "are heard in parts"
        channels = self.channels if isinstance(self.channels, str) else f"number {self.channels}"
        told = f"channels {channels}, those longer than the model hears {long}"
        return [*super().describe(), f"sounds: tower {self.audio}, 16 kHz, {told}"]

    def prompt_check(self) -> Callable[[Prompt], str | None] | None:
        """Whether the chat template takes a prompt; None where the processor's files are not on this machine."""
        from mmrl.modalities.media.encoder import MediaEncoder
        from mmrl.modalities.tokens import loading

        if self.build is not None or importlib.util.find_spec("torchvision") is None:
            return None
        from transformers import AutoProcessor

        try:
            place = loading.source(self, "Qwen/Qwen2-Audio-7B-Instruct")
            processor = AutoProcessor.from_pretrained(**place, local_files_only=True)
        except OSError:
            return None
        marks = (IMAGE, AUDIO) if hasattr(processor, "image_processor") else (AUDIO,)
        encoder = MediaEncoder(processor, self, sys.maxsize, marks)

        def check(prompt: Prompt) -> str | None:
            pictures = len(prompt.record.get("images") or ()) if IMAGE in marks else 0
            return encoder.refusal(prompt, opening(prompt, pictures))

        return check
