"""A family of vision-language models: how it processes pictures, where they stand, and how its decoder is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmrl.modalities.media import family as media
from mmrl.modalities.media.eyes import Eyes

if TYPE_CHECKING:
    from mmrl.modalities.vision.config import ModelConfig


class Family(Eyes, media.Family):
    """What differs between model classes.

    model: a ...ForConditionalGeneration of transformers. processor: its own.
    """

    tiled = False  # whether `model.tiles` says how many parts of a picture are shown

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        super().__init__(processor, model.config.image_token_id)
        self.engine = config.engine.name
