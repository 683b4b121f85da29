"""The vision adapter: language models that see."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from mmrl.media import IMAGE, Media
from mmrl.modalities.kept import Kept
from mmrl.modalities.media.adapter import MediaAdapter
from mmrl.modalities.media.encoder import MediaEncoder
from mmrl.modalities.media.features import Features, Room, Tower
from mmrl.modalities.media.pictures import PictureShelf
from mmrl.modalities.media.reading import MediaReader
from mmrl.modalities.tokens import loading
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.families import Family, check_kind, family_of
from mmrl.types import Sample

if TYPE_CHECKING:
    from PIL.Image import Image

# Of a picture, where no run says how many.
MAX_PIXELS = 50_000_000


class VisionAdapter(MediaAdapter):
    """A vision-language model of transformers as a policy over tokens."""

    Config = ModelConfig
    config: ModelConfig
    _example = "Qwen/Qwen2.5-VL-3B-Instruct"
    family: Family

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._kept = self._room()

    def _check_packages(self) -> None:
        if importlib.util.find_spec("torchvision") is None:  # processors of pictures with a video part want it
            raise ImportError("modality vision needs the package 'torchvision': pip install \"mmrl[vision]\"")

    def _read(self, kind: str, place: Mapping[str, Any]) -> Any:
        from transformers import AutoModelForImageTextToText

        check_kind(kind, self.config)
        return loading.read(AutoModelForImageTextToText, place, self.config, "vision-language model")

    def _build(self) -> tuple[Any, Any]:
        from mmrl.modalities.vision.tiny import build

        return build(**(self.config.build or {}))

    def _family_of(self, model: Any) -> Family:
        return family_of(model, self.processor, self.config)

    def _left_alone(self, model: Any) -> Sequence[nn.Module]:
        return self.family.towers(model) if self.config.vision == "frozen" else ()

    def _towers(self, model: Any) -> Sequence[nn.Module]:
        return self.family.towers(model)

    def _engine_options(self) -> dict[str, Any]:
        return {"processor": self.family.processor_options()}

    def _reader(self, limit: int) -> MediaReader:
        space = self.family.space if self.config.space == "auto" else self.config.space
        self.shelf = PictureShelf(self.family, space, MAX_PIXELS, self.config.picture_cache << 20)
        encoder = MediaEncoder(self.processor, self.config, limit, (IMAGE,), self.stop_ids, self.family)
        return MediaReader(encoder, self.config.skip_special_tokens, self.family, self.shelf)

    def _rooms(self) -> Mapping[Tower, Room]:
        frozen = self.config.vision == "frozen"
        return {self.family: Room(self._kept if frozen else self._room(), frozen)}

    def _room(self) -> Kept[Features]:
        return Kept(self.config.picture_cache << 20)

    # ---------------------------------------------------------------- pictures

    @property
    def max_pixels(self) -> int | None:
        """A picture of more pixels is not opened; a run sets its data.max_pixels. None is MAX_PIXELS."""
        return self.shelf.bound

    @max_pixels.setter
    def max_pixels(self, pixels: int | None) -> None:
        self.shelf.bound = MAX_PIXELS if pixels is None else pixels

    def picture(self, sample: Sample, media: Media) -> Image:
        """What the policy saw of a view, as large as the processor made it, as a PIL picture for the report."""
        return self.shelf.picture(sample.prompt, media)
