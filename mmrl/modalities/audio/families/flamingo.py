"""Audio Flamingo 3: one sound a prompt, of up to ten minutes, heard in windows of 30 s."""

from __future__ import annotations

from mmrl.modalities.audio.families.base import Family
from mmrl.sounds import RATE


class AudioFlamingo3(Family):
    """The frames of all windows are counted together."""

    model_class = "AudioFlamingo3ForConditionalGeneration"
    mask = "input_features_mask"
    most = 1
    sound_alone = "<sound>"

    @property
    def longest(self) -> int | None:
        return self.processor.max_audio_len * RATE // self.window * self.window  # of windows that fit whole

    def frames(self, samples: int) -> int:
        whole, rest = divmod(samples, self.window)
        return whole * (self.window // self.hop) + super().frames(rest)
