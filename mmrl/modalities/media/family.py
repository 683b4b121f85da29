"""A family of models that see or hear, as their decoder is called. How it sees is eyes.py; how it hears, the audio
modality's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.engines.decoder import Row
from mmrl.modalities.media.features import Features

PICTURE, SOUND = "▣", "♪"  # signs of a report
PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")


class Family:
    """What differs between model classes; the defaults suit those that show a medium as a row of placeholders.

    places: ids that stand for a medium in a rendered text. slots: those of which a medium has one for each feature.
    """

    prefix_attention = False
    first_position = 0
    shares_prompts = True  # whether tokens can go on from a prompt that was computed once
    own_masks = False  # whether attention gets masks of its own, which flash attention cannot take
    not_served = ""  # why vLLM cannot sample, in words that follow the model's name
    shows = "pictures"  # what stands at the placeholders, for messages
    sound_alone = ""  # what stands for a sound in a prompt without a chat template

    places: Tensor
    slots: Tensor

    # ---------------------------------------------------------------- parts of the model

    def towers(self, model: Any) -> list[nn.Module]:
        """What sees or hears: each tower and its projector into the decoder."""
        raise NotImplementedError

    def language(self, model: Any) -> Any:
        """The decoder."""
        return model.base_model.language_model

    def never_sampled(self, model: Any) -> set[int]:
        """Ids that stand for media."""
        named = [getattr(model.config, name, None) for name in PLACEHOLDERS]
        return {i for i in named if isinstance(i, int)}

    # ---------------------------------------------------------------- the text

    def framed(self, text: str, parts: Sequence[int]) -> str:
        """A rendered text whose pictures have so many `parts` each, as the tokenizer is to read it."""
        return text

    def signs(self) -> dict[int, str]:
        """What each of `slots` is in a report."""
        return dict.fromkeys(self.slots.tolist(), PICTURE)

    # ---------------------------------------------------------------- the decoder

    def new_cache(self, decoder: Any) -> Any:
        """An empty cache of keys and values."""
        from transformers import DynamicCache

        return DynamicCache(config=decoder.config)

    def positions(self, row: Row) -> Tensor:
        """[k, t] int64 positions of a row's tokens from 0."""
        return torch.arange(len(row))[None]

    def decode(
        self,
        model: Any,
        embeds: Tensor,
        position: Tensor,
        attended: Tensor | None,
        cache: Any,
        slots: Tensor,
        features: Sequence[Features],
        prompt: bool,
        real: Tensor | None,
    ) -> Tensor:
        """Hidden states [b, w, D] from input embeddings. slots: [b, w] bool, where the features stand."""
        return self.language(model)(
            inputs_embeds=embeds,
            position_ids=position[0] if len(position) == 1 else position,
            attention_mask=attended,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
