"""The vision adapter: language models that see."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.engines.decoder import Row
from mmrl.environments.base import Context, Reply
from mmrl.environments.opening import opening
from mmrl.media import IMAGE, Media, Size, View
from mmrl.modalities.tokens import loading
from mmrl.modalities.tokens.adapter import TokenAdapter
from mmrl.modalities.tokens.conversation import Opened
from mmrl.modalities.tokens.prompts import Unfit
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.decoder import VisionDecoder
from mmrl.modalities.vision.families import Features, family_of
from mmrl.modalities.vision.kept import Kept
from mmrl.modalities.vision.pictures import PictureShelf, expand, picture_refs, shown
from mmrl.modalities.vision.prompts import VisionEncoder
from mmrl.pictures import open_image
from mmrl.types import Prompt, Sample, Turn

# Of a picture, where no run says how many.
MAX_PIXELS = 50_000_000


class VisionAdapter(TokenAdapter):
    """A vision-language model of transformers as a policy over tokens.

    Samples hold which views of the prompt's pictures were shown (`media`), not their pixels; those are made again from
    the record. In the ids of a trajectory a picture is as many placeholders as it has features.
    """

    Config = ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        space = self.family.space if config.space == "auto" else config.space
        self.shelf = PictureShelf(self.family, space, MAX_PIXELS, config.picture_cache << 20)
        self._kept = self._room()

    def _load(self) -> tuple[nn.Module, Any]:
        config = self.config
        if importlib.util.find_spec("torchvision") is None:  # processors of pictures with a video part want it
            raise ImportError("modality vision needs the package 'torchvision': pip install \"mmrl[vision]\"")
        if config.build is not None:
            model, self.processor = self._built()
            model.set_attn_implementation(config.attention)
        else:
            from transformers import AutoModelForImageTextToText, AutoProcessor

            place = loading.source(config, "Qwen/Qwen2.5-VL-3B-Instruct")
            self.processor = AutoProcessor.from_pretrained(**place)
            model = AutoModelForImageTextToText.from_pretrained(**place, **loading.options(config))
        self.family = family_of(model, self.processor, config)
        if config.gradient_checkpointing and self.family.prefix_attention:
            raise ValueError(
                f"gradient_checkpointing: prompts of {type(model).__name__} need a cache, which layers that are "
                "recomputed cannot fill; leave it off"
            )
        if config.engine.name == "vllm" and self.family.prefix_attention:
            raise ValueError(
                f"engine.name=vllm puts the pictures of {type(model).__name__} where it wants, not where the prompt "
                "has them; leave it at transformers"
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
        inside = {id(m) for m in decoder.modules() if isinstance(m, nn.Linear)}
        names = [name for name, m in model.named_modules() if id(m) in inside]
        found = [n for n in names if wanted is None or any(n == w or n.endswith(f".{w}") for w in wanted)]
        if not found:
            known = sorted({name.rpartition(".")[2] for name in names})
            raise ValueError(f"lora.targets {wanted}: no linear layer of the decoder; there are {', '.join(known)}")
        return found

    def _built(self) -> tuple[nn.Module, Any]:
        from mmrl.modalities.vision.tiny import build

        model, processor = build(**self.config.build)
        return model.to(loading.frozen_dtype(self.config)), processor

    def _write_base(self, folder: Path) -> None:
        model, processor = self._built()
        model.to(getattr(torch, self.config.dtype)).save_pretrained(folder)
        processor.save_pretrained(folder)

    def _engine_options(self) -> dict[str, Any]:
        return {"processor": self.family.processor_options()}

    def _never_sampled(self) -> tuple[int, ...]:
        return tuple(sorted({*super()._never_sampled(), *self.family.never_sampled(self.model)}))

    def _encoder(self, limit: int) -> VisionEncoder:
        return VisionEncoder(self.processor, self.config, limit)

    def _decoder(self) -> VisionDecoder:
        frozen = self.config.vision == "frozen"
        return VisionDecoder(self.model, self.family, self._kept if frozen else self._room(), frozen)

    def _room(self) -> Kept[Features]:
        return Kept(self.config.picture_cache << 20)

    # ---------------------------------------------------------------- what the policy reads

    @property
    def max_pixels(self) -> int:
        """A picture of more pixels is not opened; a run sets its data.max_pixels."""
        return self.shelf.bound

    @max_pixels.setter
    def max_pixels(self, pixels: int) -> None:
        self.shelf.bound = pixels

    def sizes(self, prompt: Prompt) -> Sequence[Size]:
        return self.shelf.sizes(prompt)

    def _opening(self, prompt: Prompt) -> Context:
        """All pictures of the record at their places, or before the first user's text where it marks none."""
        count = len(picture_refs(prompt))
        return Context(opening(prompt, count), [View(i) for i in range(count)])

    def opened(self, prompt: Prompt, context: Context) -> Opened:
        if reason := self.prompts.unfit(context) or _miscounted(context):
            raise Unfit(prompt, reason)
        pictures = [self.shelf.get(prompt, view) for view in context.views]
        ids = expand(self.prompts.ids(context), pictures, self.family.image_id)
        self.prompts.check_length(prompt, len(ids))
        turns, shown_before = [], 0
        for message in context.messages:
            here = message["content"].count(IMAGE)
            turns.append(Turn(message["role"], message["content"], tuple(range(shown_before, shown_before + here))))
            shown_before += here
        return Opened(Row(ids, tuple(pictures)), [p.media for p in pictures], turns)

    def replied(self, prompt: Prompt, reply: Reply, ended: bool) -> tuple[Row, list[Media]]:
        if reply.text.count(IMAGE) != len(reply.views):
            raise ValueError(
                f"the environment's text marks {reply.text.count(IMAGE)} pictures and shows {len(reply.views)}"
            )
        pictures = [self.shelf.get(prompt, view) for view in reply.views]
        ids = self.prompts.reply_ids(reply.text, reply.role, ended)
        return Row(expand(ids, pictures, self.family.image_id), tuple(pictures)), [p.media for p in pictures]

    def rows(self, sample: Sample, length: int | None = None) -> tuple[Row, Row]:
        pictures = [self.shelf.get(sample.prompt, m.view) for m in sample.media]
        prompt, rest = super().rows(sample)
        slots, count, first = int((prompt.ids == self.family.image_id).sum()), 0, 0
        while count < slots and first < len(pictures):
            count += pictures[first].tokens
            first += 1
        if count != slots:
            raise ValueError(f"prompt {sample.prompt.id!r}: {slots} placeholders, its pictures have {count} features")
        rest = Row(rest.ids, tuple(pictures[first:]))
        if length is not None:
            rest = self._decoder().cut(rest, length)
        return Row(prompt.ids, tuple(pictures[:first])), rest

    def words(self, ids: Tensor) -> list[str]:
        """Each id's text; a picture is one sign at its first placeholder."""
        found, inside = [], False
        for i in ids.tolist():
            picture = i == self.family.image_id
            found.append(("" if inside else "▣") if picture else self._word_of[i])
            inside = picture
        return found

    def picture(self, sample: Sample, media: Media) -> Any:
        """What the policy saw of a view, as large as the processor made it, as a PIL picture for the report."""
        ref = picture_refs(sample.prompt)[media.view.picture]
        image = shown(open_image(ref, sample.prompt.root, self.max_pixels), media.view)
        return image if image.size == media.seen else image.resize(media.seen)

    def save(self, folder: Path) -> None:
        """A folder that `from_pretrained` loads, with the processor; for LoRA, peft's own files."""
        super().save(folder)
        if self.config.train == "full":
            self.processor.save_pretrained(folder)


def _miscounted(context: Context) -> str | None:
    """Why the marks do not fit the views, in words that follow "prompt ...", or None."""
    marks = sum(m["content"].count(IMAGE) for m in context.messages)
    if marks != len(context.views):
        return f"marks {marks} places with {IMAGE}, and has {len(context.views)} pictures"
    return None
