"""A family of vision-language models: how it processes pictures, where they stand, and how its decoder is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmrl.engines.decoder import Row
from mmrl.media import Size

if TYPE_CHECKING:
    from PIL import Image

    from mmrl.modalities.vision.config import ModelConfig


@dataclass(frozen=True)
class Features:
    """What the tower makes of one picture: [tokens, D], and the same again for inner layers of the decoder."""

    embeds: Tensor
    deep: tuple[Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(t.numel() * t.element_size() for t in (self.embeds, *self.deep))


class Family:
    """What differs between model classes; the defaults suit those that show a picture as a row of placeholders.

    model: a ...ForConditionalGeneration of transformers. processor: its own.
    """

    space = "norm1000"  # coordinates that models of the family write
    boxes = "json"  # and how they write a box: a key of mmrl.boxes.SYNTAXES
    tiled = False  # whether `model.tiles` says how many parts of a picture are shown
    prefix_attention = False
    first_position = 0
    shares_prompts = True  # whether tokens can go on from a prompt that was computed once
    own_masks = False  # whether attention gets masks of its own, which flash attention cannot take
    not_served = ""  # why vLLM cannot sample, in words that follow the model's name

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        self.processor = processor
        self.image_id: int = model.config.image_token_id
        # Ids that stand for a picture in a rendered text, and those of which a picture has one for each feature.
        self.places, self.slots = torch.tensor([self.image_id]), torch.tensor([self.image_id])
        self.engine = config.engine.name
        self._expansions: dict[str, Tensor] = {}

    def among(self, pictures: int) -> Family:
        """The family as it shows each of so many pictures of a record."""
        return self

    def film_inputs(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        """What `features` takes of what the processor makes of a video. Raises ValueError where it takes none."""
        raise ValueError("its processor takes no videos; set data.videos: frames")

    # ---------------------------------------------------------------- parts of the model

    def towers(self, model: Any) -> list[nn.Module]:
        """What sees: the vision tower and the projector into the decoder."""
        raise NotImplementedError

    def language(self, model: Any) -> Any:
        """The decoder."""
        return model.base_model.language_model

    def never_sampled(self, model: Any) -> set[int]:
        """Ids that stand for pictures."""
        config = model.config
        named = [getattr(config, name, None) for name in ("image_token_id", "video_token_id", "audio_token_id")]
        return {i for i in named if isinstance(i, int)}

    # ---------------------------------------------------------------- a picture's places, from its size alone

    def written(self, size: Size) -> str:
        """What the processor writes in the place of a picture of this size. Raises ValueError for one it refuses."""
        raise NotImplementedError

    def seen(self, size: Size) -> Size:
        """Size of what the processor makes of a picture of this size."""
        return size

    def expansion(self, size: Size) -> Tensor:
        """[e] int64: the ids that stand in the place of one picture of this size."""
        text = self.written(size)
        if text not in self._expansions:
            ids = self.processor.tokenizer(text, add_special_tokens=False).input_ids
            self._expansions[text] = torch.tensor(ids, dtype=torch.int64)
        return self._expansions[text]

    def framed(self, text: str, parts: Sequence[int]) -> str:
        """A rendered text whose pictures have so many `parts` each, as the tokenizer is to read it."""
        return text

    def code(self, size: Size) -> str:
        """How a rendered message tells of the picture: its parts, or v for a video."""
        return str(self.parts(size))

    def depth(self, size: Size) -> int:
        """Layers in time, of a video; 1 for a picture."""
        return 1

    def parts(self, size: Size) -> int:
        """Places that a picture of this size has in a framed text, each of which becomes its `expansion`."""
        return 1

    # ---------------------------------------------------------------- pictures

    def process(self, image: Image.Image) -> tuple[dict[str, Tensor], Size]:
        """(what `features` takes, size of what the processor made of the picture)."""
        raise NotImplementedError

    def processor_options(self) -> dict[str, Any]:
        """What a processor must be told to do as `process` does, where its own files do not say so."""
        return {}

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        """Features that the tower will make of a processed picture."""
        raise NotImplementedError

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        """What the model's tower makes of processed pictures, all in one forward."""
        raise NotImplementedError

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


def split_features(found: Any, counts: Sequence[int]) -> list[Features]:
    """One Features a picture from what `get_image_features` returns: a list by picture, or rows of all of them."""
    pooled = getattr(found, "pooler_output", found)
    rows = torch.cat([p.reshape(-1, p.shape[-1]) for p in pooled])
    return [Features(part) for part in rows.split(list(counts))]
