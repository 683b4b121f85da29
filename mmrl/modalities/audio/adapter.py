"""The audio adapter: language models that hear, and, where they are Omni thinkers, see."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from mmrl.media import AUDIO, IMAGE, Heard, Media
from mmrl.modalities.audio.config import OMNI, ModelConfig
from mmrl.modalities.audio.families import Family, family_class
from mmrl.modalities.audio.shelf import CHUNKS, SoundShelf
from mmrl.modalities.kept import Kept
from mmrl.modalities.media.adapter import MediaAdapter
from mmrl.modalities.media.encoder import MediaEncoder
from mmrl.modalities.media.features import Features, Room, Tower
from mmrl.modalities.media.pictures import PictureShelf
from mmrl.modalities.media.reading import MediaReader
from mmrl.modalities.tokens import loading
from mmrl.sounds import MAX_SECONDS
from mmrl.types import Sample

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

# Of a picture, where no run says how many.
MAX_PIXELS = 50_000_000


class AudioAdapter(MediaAdapter):
    """A language model of transformers that hears, as a policy over tokens."""

    Config = ModelConfig
    config: ModelConfig
    _example = "Qwen/Qwen2-Audio-7B-Instruct"
    family: Family

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._kept, self._seen = self._room(), self._room()

    def _read(self, kind: str, place: Mapping[str, Any]) -> Any:
        import transformers

        _check_sight(kind)
        found = family_class(kind, self.config)
        return loading.read(getattr(transformers, found.model_class), place, self.config, "language model that hears")

    def _build(self) -> tuple[Any, Any]:
        from mmrl.modalities.audio.tiny import build

        _check_sight(str((self.config.build or {}).get("kind", "")))
        return build(**(self.config.build or {}))

    def _family_of(self, model: Any) -> Family:
        family = family_class(model.config.model_type, self.config)(model, self.processor, self.config)
        _refuse_unused(family, self.config)
        return family

    def _left_alone(self, model: Any) -> Sequence[nn.Module]:
        hearing = self.family.fixed(model) if self.config.audio == "trained" else self.family.hearing(model)
        return [*hearing, *(self.family.seeing(model) if self.config.vision == "frozen" else ())]

    def _towers(self, model: Any) -> Sequence[nn.Module]:
        return [*self.family.hearing(model), *self.family.fixed(model), *self.family.seeing(model)]

    def _reader(self, limit: int) -> MediaReader:
        family, kept = self.family, self.config.media_cache << 20
        self.sounds = SoundShelf(family, self.config.channels, self.config.long_sounds, kept)
        self.shelf = PictureShelf(family.eyes, family.eyes.space, MAX_PIXELS, kept) if family.eyes else None
        marks = (AUDIO,) if self.shelf is None else (IMAGE, AUDIO)
        encoder = MediaEncoder(self.processor, self.config, limit, marks, self.stop_ids, family)
        return MediaReader(encoder, self.config.skip_special_tokens, family, self.shelf, self.sounds)

    def _rooms(self) -> Mapping[Tower, Room]:
        hearing, seeing = self.config.audio == "frozen", self.config.vision == "frozen"
        rooms: dict[Tower, Room] = {self.family: Room(self._kept if hearing else self._room(), hearing)}
        if self.family.eyes is not None:
            rooms[self.family.eyes] = Room(self._seen if seeing else self._room(), seeing)
        return rooms

    def _room(self) -> Kept[Features]:
        return Kept(self.config.media_cache << 20)

    # ---------------------------------------------------------------- media

    @property
    def max_pixels(self) -> int | None:
        """A picture of more pixels is not opened; a run sets its data.max_pixels. None is MAX_PIXELS."""
        return MAX_PIXELS if self.shelf is None else self.shelf.bound

    @max_pixels.setter
    def max_pixels(self, pixels: int | None) -> None:
        if self.shelf is not None:
            self.shelf.bound = MAX_PIXELS if pixels is None else pixels

    @property
    def max_seconds(self) -> float | None:
        """A longer sound is not decoded; a run sets its data.max_seconds. None is mmrl.sounds.MAX_SECONDS."""
        return self.sounds.bound

    @max_seconds.setter
    def max_seconds(self, seconds: float | None) -> None:
        self.sounds.bound = MAX_SECONDS if seconds is None else seconds

    def picture(self, sample: Sample, media: Media) -> Image | None:
        """What the policy saw of a view, as large as the processor made it, as a PIL picture for the report."""
        return None if self.shelf is None else self.shelf.picture(sample.prompt, media)

    def sound(self, sample: Sample, media: Heard) -> np.ndarray:
        """[n] float32 at 16 kHz: what the policy heard of an excerpt, for the report."""
        return self.sounds.samples(sample.prompt, media.view)


def _refuse_unused(family: Family, config: ModelConfig) -> None:
    """Raise ValueError for options that change nothing of this model, which only its files tell."""
    name = family.model_class
    if config.vision == "trained" and family.eyes is None:
        raise ValueError(f"vision: trained, and {name} does not see; leave it out")
    if config.long_sounds == CHUNKS and family.longest is None:
        raise ValueError(f"long_sounds: {CHUNKS}, and {name} hears sounds of any length at once; leave it out")
    if config.long_sounds == CHUNKS and family.most == 1:
        raise ValueError(
            f"long_sounds: {CHUNKS}, and {name} hears one sound of a prompt, not parts; leave it at refuse"
        )


def _check_sight(kind: str) -> None:
    if kind.removesuffix("_thinker") in OMNI and importlib.util.find_spec("torchvision") is None:
        raise ImportError(f"model_type {kind} sees, and needs the package 'torchvision': pip install \"mmrl[vision]\"")
