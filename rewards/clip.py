"""CLIP: how well the picture fits the prompt, as the cosine of their embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmrl.rewarding import RewardError
from mmrl.share import resolve
from mmrl.types import Sample, Score


class Clip:
    """An open_clip model, frozen, with its preprocessing and tokenizer.

    model: an open_clip name ("ViT-B-32", "hf-hub:owner/name") or a model config (.json file).
    pretrained: a hub tag ("laion2b_s34b_b79k") or a weights file (.safetensors).
    device: "cpu", "cuda", ...; by default the accelerator where there is one.
    """

    def __init__(self, model: str, pretrained: str | None, batch: int, device: str | None) -> None:
        if batch < 1:
            raise RewardError(f"clip: batch is {batch}; it must be at least 1")
        name = _register(model)
        weights = _weights(name, pretrained)
        self.batch = batch
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            name, pretrained=weights, device=self.device
        )
        self.model.eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(name)

    @torch.inference_mode()
    def images(self, images: list[Image.Image]) -> Tensor:
        """[N, D] float32 embeddings of unit length."""
        rows = []
        for start in range(0, len(images), self.batch):
            pixels = [self.preprocess(i.convert("RGB")) for i in images[start : start + self.batch]]
            rows.append(self.model.encode_image(torch.stack(pixels).to(self.device)).float())
        return F.normalize(torch.cat(rows), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """[N, D] float32 embeddings of unit length; each different text is encoded once."""
        different = list(dict.fromkeys(texts))
        rows = []
        for start in range(0, len(different), self.batch):
            tokens = self.tokenizer(different[start : start + self.batch])
            rows.append(self.model.encode_text(tokens.to(self.device)).float())
        place = {text: row for row, text in enumerate(different)}
        return F.normalize(torch.cat(rows), dim=-1)[[place[text] for text in texts]]

    def tokens(self, text: str) -> int:
        """Tokens of `text` with its start and end marks, before truncation to the context of the model."""
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(text)) + 2
        return len(self.tokenizer.tokenizer(text).input_ids)

    @property
    def context(self) -> int:
        """Tokens that the model reads; 77 for most."""
        return int(self.tokenizer.context_length)


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
        texts = [sample.prompt.text for sample in samples]
        cosine = (self.clip.images([s.artifact for s in samples]) * self.clip.texts(texts)).sum(-1)
        return [Score.of(value * self.scale, **self._cut(text)) for value, text in zip(cosine.tolist(), texts)]

    def _cut(self, text: str) -> dict[str, Any]:
        tokens = self.clip.tokens(text)
        return {"truncated": True, "tokens": tokens} if tokens > self.clip.context else {}


def _register(model: str) -> str:
    """The open_clip name of `model`; a .json file becomes known under its stem."""
    if not model.endswith(".json"):
        return model
    path = resolve(model)
    if not path.is_file():
        raise RewardError(f"clip: there is no model config {path}")
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
    if not path.is_file():
        raise RewardError(f"clip: {pretrained!r} is neither a file nor a tag of {model}")
    if path.suffix != ".safetensors":
        raise RewardError(f"clip: {path.name} may hold a pickle; convert it to .safetensors")
    return str(path)
