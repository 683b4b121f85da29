"""The thinkers of Qwen2.5-Omni and Qwen3-Omni, which hear and see; their talkers are not part of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmrl.engines.decoder import Row
from mmrl.modalities.audio.families.base import Family
from mmrl.modalities.media.features import Features
from mmrl.modalities.media.qwen import DeepDecoder, DeepEyes, QwenEyes, axes

if TYPE_CHECKING:
    from mmrl.modalities.audio.config import ModelConfig


class Qwen25Omni(Family):
    """A token has three positions, which go on by one in a sound. The tower hears windows of 2 s apart."""

    model_class = "Qwen2_5OmniThinkerForConditionalGeneration"
    shows = "pictures and sounds"
    sound_alone = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    eyes: QwenEyes

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        numbers = model.config
        self.eyes = self._eyes(processor, numbers.image_token_id)
        self.eyes.fit(numbers.video_token_id)
        self.places = self.slots = torch.cat([self.slots, self.eyes.slots])
        self.interval = int(numbers.position_id_per_seconds)

    def _eyes(self, processor: Any, image_id: int) -> QwenEyes:
        return QwenEyes(processor, image_id)

    def hearing(self, model: Any) -> list[nn.Module]:
        return [model.base_model.audio_tower]

    def seeing(self, model: Any) -> list[nn.Module]:
        return [model.base_model.visual]

    def fixed(self, model: Any) -> list[nn.Module]:
        return [model.base_model.audio_tower.audio_bos_eos_token]  # which the thinker does not read

    def padded(self, samples: int) -> dict[str, Any]:
        """The tower takes no padding, of which the processor would make 300 s: a frame's width of it, so that the last
        frames see the silence behind them, is enough."""
        width = self.processor.feature_extractor.n_fft
        return {"max_length": min(self.window, -(-(samples + width) // self.hop) * self.hop)}

    def rows(self, found: Any) -> Tensor:
        return found.last_hidden_state

    def positions(self, row: Row) -> Tensor:
        return axes(row, self.slots, self.eyes.patch * self.eyes.merge, self.interval, lambda depth: [depth])


class Qwen3Omni(DeepDecoder, Qwen25Omni):
    """Its processor pads no sound, and 100 frames are 13 tokens. Pictures enter inner layers of the decoder, too."""

    model_class = "Qwen3OmniMoeThinkerForConditionalGeneration"
    sound_alone = "<|audio_start|><|audio_pad|><|audio_end|>"

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(model, processor, config)
        self.chunk = 2 * int(model.config.audio_config.n_window)

    def _eyes(self, processor: Any, image_id: int) -> QwenEyes:
        return DeepEyes(processor, image_id)

    def fixed(self, model: Any) -> list[nn.Module]:
        return []

    @property
    def longest(self) -> int | None:
        return None

    def padded(self, samples: int) -> dict[str, Any]:
        return {}  # and its processor none

    def frames(self, samples: int) -> int:
        return samples // self.hop

    def counted(self, frames: int) -> int:
        rest = frames % self.chunk
        for _ in range(3):
            rest = (rest - 1) // 2 + 1
        return rest + frames // self.chunk * 13

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        """What each sound has alone: the tower pads the chunks of a batch to the longest and lets what is behind a
        shorter one into its last token, so that sounds of less than a chunk are heard with their like only."""
        kinds: dict[int, list[int]] = {}
        for place, given in enumerate(inputs):
            kinds.setdefault(min(int(given[self.mask].sum()), self.chunk), []).append(place)
        made: dict[int, Features] = {}
        for places in kinds.values():
            made |= dict(zip(places, super().features(model, [inputs[place] for place in places])))
        return [made[place] for place in range(len(inputs))]
