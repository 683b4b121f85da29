"""PickScore (arXiv 2305.01569): how much people would pick this picture for its prompt, by a CLIP-H that learned it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from mmrl.modalities.quiet import quiet
from mmrl.types import Sample, Score

from .towers import Towers, batches, folder_of, load_once, place_of

PUBLISHED = "yuvalkirstain/PickScore_v1"
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class Pick(Towers):
    """A CLIPModel of transformers, frozen, with its tokenizer and the preprocessing of its pictures."""

    def __init__(self, model: str, processor: str | None, batch: int, device: str | None, dtype: str) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer

        batches((), batch)
        self.device, self.dtype = place_of(device, dtype)
        folder = folder_of(model, "model")
        files = folder if processor is None else folder_of(processor, "processor")
        if not (files / "preprocessor_config.json").is_file():
            raise ValueError(f"{files} has no preprocessor_config.json; set `processor`, as published {PROCESSOR}")
        key = ("clip", str(folder), str(self.device), self.dtype)
        self.model = load_once(key, lambda: self._load(folder))
        # The published code resizes with Pillow; torchvision's tensors differ in the third digit.
        self.processor: Any = AutoImageProcessor.from_pretrained(files, local_files_only=True, backend="pil")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(files, local_files_only=True)
        self.batch, self.context = batch, int(self.model.config.text_config.max_position_embeddings)

    def _load(self, folder: Path) -> Any:
        from transformers import CLIPModel

        quiet("transformers")
        model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=self.dtype)
        return model.to(self.device).eval().requires_grad_(False)

    @property
    def temperature(self) -> float:
        """exp(logit_scale), which multiplies the cosine; 100 or less in published models."""
        return math.exp(float(self.model.logit_scale))

    def embed_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return self.model.get_image_features(pixels.to(self.device, self.dtype)).pooler_output

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.context, return_tensors="pt"
        ).to(self.device)
        return self.model.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output

    def tokens(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False).input_ids)


class score:
    """exp(logit_scale) * cosine(picture, prompt) / divide; around 20 as published.

    model: folder, or hub name in the local cache, of the CLIPModel. processor: of its tokenizer and preprocessing
    where they are not beside it. divide: 26 gives Flow-GRPO's numbers. batch: pictures a forward pass. dtype: of the
    weights. A prompt longer than 77 tokens is cut there; `details` then has `tokens` and `truncated`.
    """

    def __init__(
        self,
        model: str = PUBLISHED,
        processor: str | None = None,
        divide: float = 1.0,
        batch: int = 16,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        if not (math.isfinite(divide) and divide > 0):
            raise ValueError(f"divide={divide} must be above 0")
        self.pick, self.divide = Pick(model, processor, batch, device, dtype), divide

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self.pick.scores(samples, self.pick.temperature / self.divide)
