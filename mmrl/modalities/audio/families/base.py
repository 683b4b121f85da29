"""A family of models that hear: how it processes sounds, how many tokens they are, and how its decoder is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mmrl.modalities.media import family as media
from mmrl.modalities.media.eyes import Eyes
from mmrl.modalities.media.features import Features
from mmrl.sounds import RATE

if TYPE_CHECKING:
    import numpy as np

    from mmrl.modalities.audio.config import ModelConfig

# What a processor says of the text, which is rendered and encoded elsewhere.
_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class Family(media.Family):
    """What differs between model classes; the defaults suit a Whisper encoder whose processor pads each sound to one
    window, and that makes a token of four frames.

    model: a ...ForConditionalGeneration of transformers. processor: its own.
    """

    shows = "sounds"
    not_served = "hears, which was not tried with vLLM for this family"
    model_class: ClassVar[str] = ""  # of transformers
    most: ClassVar[int | None] = None  # sounds of a prompt
    mask: ClassVar[str] = "feature_attention_mask"  # which of the processor's outputs tells frames from padding
    # Along which axis of each output sounds stand one behind the other; 0 of those that are not named.
    axis: ClassVar[Mapping[str, int]] = {}
    eyes: Eyes | None = None  # of a family that sees, too

    def __init__(self, model: Any, processor: Any, config: ModelConfig) -> None:
        self.processor = processor
        self.audio_id = int(model.config.audio_token_id)
        self.places = self.slots = torch.tensor([self.audio_id])
        extractor = processor.feature_extractor
        if extractor.sampling_rate != RATE:
            raise ValueError(f"its processor wants {extractor.sampling_rate} Hz, and sounds are made at {RATE} Hz")
        self.hop, self.window = int(extractor.hop_length), int(extractor.n_samples)

    def signs(self) -> dict[int, str]:
        pictures = dict.fromkeys(self.eyes.slots.tolist() if self.eyes else (), media.PICTURE)
        return {**pictures, self.audio_id: media.SOUND}

    # ---------------------------------------------------------------- parts of the model

    def towers(self, model: Any) -> list[nn.Module]:
        return [*self.hearing(model), *self.seeing(model)]

    def hearing(self, model: Any) -> list[nn.Module]:
        """The tower that hears, and its projector into the decoder."""
        return [model.base_model.audio_tower, model.base_model.multi_modal_projector]

    def seeing(self, model: Any) -> list[nn.Module]:
        """The tower that sees."""
        return []

    def fixed(self, model: Any) -> list[nn.Module]:
        """What of the towers is never trained: Whisper's sinusoids."""
        return [model.base_model.audio_tower.embed_positions]

    # ---------------------------------------------------------------- how long a sound is

    @property
    def longest(self) -> int | None:
        """Samples that the model hears at once, of one sound; None: any."""
        return self.window

    def frames(self, samples: int) -> int:
        """Frames of the spectrogram that are not padding."""
        return -(-samples // self.hop)

    def counted(self, frames: int) -> int:
        """Tokens of so many frames."""
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1

    def tokens(self, samples: int) -> int:
        """Tokens of a sound."""
        return self.counted(self.frames(samples))

    def expansion(self, tokens: int) -> Tensor:
        """[tokens] int64: the ids that stand in the place of a sound."""
        return torch.full((tokens,), self.audio_id)

    # ---------------------------------------------------------------- sounds

    def padded(self, samples: int) -> dict[str, Any]:
        """What the processor is told of how far it pads a sound, where it need not do it as far as its files say."""
        return {}

    def process(self, sound: np.ndarray) -> dict[str, Tensor]:
        """All that the processor makes of a sound [n], apart from the text. Raises ValueError where it writes another
        number of placeholders than `tokens`."""
        how = {"sampling_rate": RATE, **self.padded(len(sound))}
        made = self.processor(text=[self.processor.audio_token], audio=[sound], audio_kwargs=how, return_tensors="pt")
        written = int((made["input_ids"] == self.audio_id).sum())
        if written != self.tokens(len(sound)):
            raise ValueError(
                f"a sound of {len(sound)} samples has {self.tokens(len(sound))} placeholders, and the processor writes "
                f"{written}: the processor and the model do not belong together"
            )
        return {name: value for name, value in made.items() if name not in _TEXT and isinstance(value, Tensor)}

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        """Features that the tower will make of a processed sound."""
        return self.counted(int(inputs[self.mask].sum()))

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        """What the model's tower makes of processed sounds, all in one forward."""
        made = self.ready(model, inputs)
        found = model.base_model.get_audio_features(**made, return_dict=True)
        return [Features(part) for part in self.rows(found).split([self.feature_count(i) for i in inputs])]

    def rows(self, found: Any) -> Tensor:
        """[n, D] of what `get_audio_features` returns, sound by sound."""
        return found.pooler_output

    def ready(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Processed sounds as one batch, where the tower is and as it computes."""
        weight = next(model.base_model.audio_tower.parameters())
        made = {name: _along([i[name] for i in inputs], self.axis.get(name, 0)) for name in inputs[0]}
        return {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
            for name, value in made.items()
        }


def _along(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors one behind the other along an axis; along the others, zeros behind the shorter."""
    sizes = [max(sizes) for sizes in zip(*(part.shape for part in parts))]
    padded = []
    for part in parts:
        missing = [0 if a == axis else size - n for a, (size, n) in enumerate(zip(sizes, part.shape))]
        padded.append(torch.nn.functional.pad(part, [n for m in reversed(missing) for n in (0, m)]))
    return torch.cat(padded, axis)
