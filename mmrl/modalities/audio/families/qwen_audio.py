"""Qwen2-Audio: a Whisper encoder that attends over a padded window of 30 s, and a linear projector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.modalities.audio.families.base import Family
from mmrl.modalities.media.features import Features


class Qwen2Audio(Family):
    """Its model has no function of its own that makes features."""

    model_class = "Qwen2AudioForConditionalGeneration"
    not_served = ""
    sound_alone = "<|audio_bos|><|AUDIO|><|audio_eos|>"

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        from transformers.masking_utils import create_bidirectional_mask

        made, tower = self.ready(model, inputs), model.base_model.audio_tower
        sounds, frames = made["input_features"], made[self.mask].sum(-1)
        inside = (frames - 1) // 2 + 1  # behind the tower's second convolution
        width = (sounds.shape[-1] - 2) // 2 + 1
        real = torch.arange(width, device=sounds.device)[None] < inside[:, None]
        mask = create_bidirectional_mask(
            config=tower.config, inputs_embeds=sounds.new_zeros(len(sounds), width, 1), attention_mask=real.long()
        )
        hidden = tower(sounds, attention_mask=mask).last_hidden_state
        rows = model.base_model.multi_modal_projector(hidden)
        return [Features(row[: self.counted(int(n))]) for row, n in zip(rows, frames)]
