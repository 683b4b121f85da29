"""The vision adapter: language models that see."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmrl.media import Media
from mmrl.modalities import hollow
from mmrl.modalities.kept import Kept
from mmrl.modalities.tokens import loading
from mmrl.modalities.tokens.adapter import TokenAdapter
from mmrl.modalities.tokens.lora import adaptable
from mmrl.modalities.tokens.reading_models import located
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.decoder import VisionDecoder
from mmrl.modalities.vision.families import Features, check_kind, family_of
from mmrl.modalities.vision.pictures import PictureShelf, picture_refs, shown
from mmrl.modalities.vision.prompts import VisionEncoder
from mmrl.modalities.vision.reading import VisionReader
from mmrl.pictures import open_image
from mmrl.types import Sample

if TYPE_CHECKING:
    from PIL.Image import Image

# Of a picture, where no run says how many.
MAX_PIXELS = 50_000_000


class VisionAdapter(TokenAdapter):
    """A vision-language model of transformers as a policy over tokens.

    Samples hold which views of the prompt's pictures were shown (`media`), not their pixels; those are made again from
    the record. In the ids of a trajectory a picture is as many placeholders as it has features.
    """

    Config = ModelConfig
    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._kept = self._room()

    def _load(self) -> tuple[Any, Any]:
        config = self.config
        if importlib.util.find_spec("torchvision") is None:  # processors of pictures with a video part want it
            raise ImportError("modality vision needs the package 'torchvision': pip install \"mmrl[vision]\"")
        if config.build is not None:
            model, self.processor = self._built()
        else:
            from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

            place = located(loading.source(config, "Qwen/Qwen2.5-VL-3B-Instruct"), config)
            check_kind(AutoConfig.from_pretrained(**place).model_type, config)  # before any weights
            model = loading.read(AutoModelForImageTextToText, place, config, "vision-language model")
            self.processor = AutoProcessor.from_pretrained(**place)
        self.family = family_of(model, self.processor, config)
        if config.gradient_checkpointing and self.family.prefix_attention:
            raise ValueError(
                f"gradient_checkpointing: prompts of {type(model).__name__} need a cache, which layers that are "
                "recomputed cannot fill; leave it off"
            )
        if config.engine.name == "vllm" and self.family.not_served:
            raise ValueError(
                f"engine.name=vllm: {type(model).__name__} {self.family.not_served}; leave it at transformers"
            )
        towers = self.family.towers(model)
        if config.train == "lora":
            targets = self._lora(model, config.lora.targets)
            config = config.model_copy(update={"lora": config.lora.model_copy(update={"targets": targets})})
        model = loading.trained(model, config, towers if config.vision == "frozen" else ())
        return model, self.processor.tokenizer

    def _lora(self, model: nn.Module, wanted: Sequence[str] | None) -> list[str]:
        """The decoder's linear layers, those whose names end in one of `wanted`: engines cannot serve adapters on the
        vision tower, whose layers often have the same names. Raises ValueError where none is left.
        """
        decoder = self.family.language(model)
        layers = dict(decoder.named_modules())
        inside = {id(layers[name]) for name in adaptable(decoder)}
        names = [name for name, m in model.named_modules() if id(m) in inside]
        found = [n for n in names if wanted is None or any(n == w or n.endswith(f".{w}") for w in wanted)]
        if not found:
            known = sorted({name.rpartition(".")[2] for name in names})
            raise ValueError(f"lora.targets {wanted}: no linear layer of the decoder; there are {', '.join(known)}")
        return found

    def _built(self) -> tuple[Any, Any]:
        from mmrl.modalities.vision.tiny import build

        with hollow.skeleton():
            model, processor = build(**(self.config.build or {}))
        return model.to(loading.frozen_dtype(self.config)), processor

    def _write_base(self, folder: Path) -> None:
        model, processor = self._built()
        model.to(getattr(torch, self.config.dtype)).save_pretrained(folder)
        processor.save_pretrained(folder)

    def _engine_options(self) -> dict[str, Any]:
        return {"processor": self.family.processor_options()}

    def _never_sampled(self) -> tuple[int, ...]:
        return tuple(sorted({*super()._never_sampled(), *self.family.never_sampled(self.model)}))

    def _reader(self, limit: int) -> VisionReader:
        space = self.family.space if self.config.space == "auto" else self.config.space
        self.shelf = PictureShelf(self.family, space, MAX_PIXELS, self.config.picture_cache << 20)
        encoder = VisionEncoder(self.processor, self.config, limit, self.stop_ids, self.family.framed)
        skip = self.config.skip_special_tokens
        return VisionReader(self.tokenizer, encoder, skip, self.shelf)

    def _decoder(self) -> VisionDecoder:
        frozen = self.config.vision == "frozen"
        return VisionDecoder(self.model, self.family, self._kept if frozen else self._room(), frozen)

    @property
    def _sharing(self) -> bool:
        return super()._sharing and self.family.shares_prompts

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
        ref = picture_refs(sample.prompt)[media.view.picture]
        image = shown(open_image(ref, sample.prompt.root, self.shelf.bound), media.view)
        return image if image.size == media.seen else image.resize(media.seen)

    def save(self, folder: Path) -> None:
        """A folder that `from_pretrained` loads, with the processor; for LoRA, peft's own files."""
        super().save(folder)
        if self.config.train == "full":
            self.processor.save_pretrained(folder)
