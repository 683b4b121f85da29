"""Voxtral: sounds are padded to whole windows of 30 s, all of whose frames are heard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmrl.modalities.audio.families.base import Family
from mmrl.sounds import RATE

if TYPE_CHECKING:
    import numpy as np

    from mmrl.modalities.audio.config import ModelConfig


class Voxtral(Family):
    """Its processor takes sounds as files only, so its feature extractor is asked, in the processor's words."""

    model_class = "VoxtralForConditionalGeneration"
    sound_alone = "[BEGIN_AUDIO][AUDIO]"

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        hears = model.config.audio_config
        self.each = hears.max_source_positions * hears.hidden_size // hears.intermediate_size

    @property
    def longest(self) -> int | None:
        return None

    def tokens(self, samples: int) -> int:
        return -(-samples // self.window) * self.each

    def process(self, sound: np.ndarray) -> dict[str, Tensor]:
        extractor = self.processor.feature_extractor
        how = {"padding": True, "truncation": False, "pad_to_multiple_of": self.window, "return_tensors": "pt"}
        made = extractor(sound, sampling_rate=RATE, **how)["input_features"]
        windows = made.reshape(extractor.feature_size, -1, self.window // self.hop)
        return {"input_features": windows.transpose(0, 1)}

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        return len(inputs["input_features"]) * self.each
