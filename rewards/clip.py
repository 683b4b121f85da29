"""CLIP: how well the picture fits the prompt, as the cosine of their embeddings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from mmrl.rewarding import RewardError
from mmrl.rewarding.lacking import may_lack
from mmrl.share import resolve
from mmrl.types import Sample, Score

from .towers import Towers, batches, load_once, place_of


class Clip(Towers):
    """An open_clip model, frozen, with its preprocessing and tokenizer.

    model: an open_clip name ("ViT-B-32", "hf-hub:owner/name") or a model config (.json file).
    pretrained: a hub tag ("laion2b_s34b_b79k") or a weights file (.safetensors).
    device: "cpu", "cuda", ...; by default the accelerator where there is one.
    preprocess: RGB picture -> [3, height, width], in the place of open_clip's.
    """

    def __init__(
        self,
        model: str,
        pretrained: str | None,
        batch: int,
        device: str | None,
        preprocess: Callable[[Image.Image], Tensor] | None = None,
    ) -> None:
        batches((), batch)
        name = _register(model)
        weights = _weights(name, pretrained)
        self.batch = batch
        self.device, _ = place_of(device, "float32")
        self.model = load_once(("open_clip", model, weights, str(self.device)), lambda: self._load(name, weights))
        self.preprocess = preprocess or image_transform_v2(
            PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False
        )
        self.tokenizer = open_clip.get_tokenizer(name)
        self.context = int(self.tokenizer.context_length)

    def _load(self, name: str, weights: str | None) -> Any:
        try:
            with _offline() if may_lack() else nullcontext():
                model = open_clip.create_model(name, pretrained=weights, device=self.device)
        except (RuntimeError, FileNotFoundError) as error:
            if "download" not in str(error):
                raise
            raise FileNotFoundError(
                f"clip: the weights {weights!r} of {name} are not in the local cache and cannot be downloaded; set the "
                "option `pretrained` to a .safetensors file, or run where the hub can be reached"
            ) from error
        return model.eval().requires_grad_(False)

    def embed_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures])
        return self.model.encode_image(pixels.to(self.device))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(list(texts)).to(self.device))

    def tokens(self, text: str) -> int:
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(text)) + 2
        return len(self.tokenizer.tokenizer(text).input_ids)


class score:
    """cosine(picture, prompt) * scale. Options of the model: see `Clip`; batch: pictures a forward pass.

    A prompt longer than the model's context is cut there; `details` then has `tokens` and `truncated`.
    """

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | None = None,
        scale: float = 1.0,
        batch: int = 32,
        device: str | None = None,
    ) -> None:
        self.clip = Clip(model, pretrained, batch, device)
        self.scale = scale

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self.clip.scores(samples, self.scale)


@contextmanager
def _offline() -> Iterator[None]:
    """Inside, the hub's client reads its cache alone, for which open_clip has no option; nothing is logged of it."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(logging.NOTSET)


def _register(model: str) -> str:
    """The open_clip name of `model`; a .json file becomes known under its stem."""
    if not model.endswith(".json"):
        return model
    path = resolve(model)
    if not path.is_file():
        raise FileNotFoundError(f"clip: there is no model config {path}")
    if missing := {"embed_dim", "vision_cfg", "text_cfg"} - set(json.loads(path.read_text(encoding="utf-8"))):
        raise RewardError(f"clip: {path} is no open_clip model config, it lacks {', '.join(sorted(missing))}")
    open_clip.add_model_config(path)
    return path.stem


def _weights(model: str, pretrained: str | None) -> str | None:
    if model.startswith("hf-hub:"):
        return None  # such a name brings its weights
    if pretrained is None:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise RewardError(
            f"clip: {model} without weights is random; set the option `pretrained` to "
            f"a .safetensors file{' or one of ' + ', '.join(tags) if tags else ''}"
        )
    if pretrained in open_clip.list_pretrained_tags_by_model(model):
        return pretrained
    path: Path = resolve(pretrained)
    if path.suffix != ".safetensors":
        if path.is_file():
            raise RewardError(f"clip: {path.name} may hold a pickle; convert it to .safetensors")
        raise RewardError(f"clip: {pretrained!r} is neither a file nor a tag of {model}")
    if not path.is_file():
        raise FileNotFoundError(f"clip: {pretrained!r} is neither a file nor a tag of {model}")
    return str(path)
