"""The colour of an object by a CLIP model: which of ten words fits its part of the picture best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmrl.bench.geneval.found import Found
from mmrl.bench.geneval.reading import COLOURS
from mmrl.config import ConfigError
from mmrl.content import mark_of

WORDS = ("a photo of a {colour} {label}", "a photo of a {colour}-colored {label}", "a photo of a {colour} object")
GREY = (153, 153, 153)  # what is put around an object of which there is a mask


class ClipColours:
    """A CLIP model of transformers in a local folder; the benchmark's is OpenAI's ViT-L/14.

    An object is its box cut out of the picture, with grey where its mask is not; a colour is the mean of three
    sentences. Raises ConfigError for a folder without such a model.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            self.reader: Any = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"clip {folder}: no CLIP model: {str(error).splitlines()[0]}") from None
        self.model = model.to(device).eval()
        self.identity = mark_of(folder)
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def name(self, picture: Image.Image, label: str, objects: Sequence[Found]) -> list[str]:
        parts = [cut(picture, one) for one in objects]
        pixels = self.reader(images=parts, return_tensors="pt")["pixel_values"].to(self.model.device)
        seen = F.normalize(self.model.get_image_features(pixels).pooler_output, dim=-1)
        return [COLOURS[best] for best in (seen @ self._words(label).T).argmax(-1).tolist()]

    def _words(self, label: str) -> Tensor:
        """[colours, features] of length 1."""
        if label not in self._known:
            said = [words.format(colour=colour, label=label) for colour in COLOURS for words in WORDS]
            tokens = self.tokenizer(said, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
            each = self.model.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
            mean = F.normalize(each, dim=-1).view(len(COLOURS), len(WORDS), -1).mean(1)
            self._known[label] = F.normalize(mean, dim=-1)
        return self._known[label]


def cut(picture: Image.Image, one: Found) -> Image.Image:
    """The part of an RGB picture that is in the object's box, one pixel at least."""
    if one.mask is not None:
        grey = Image.new("RGB", picture.size, GREY)
        picture = Image.composite(picture, grey, Image.fromarray(one.mask.astype("uint8") * 255))
    left, top, right, bottom = (round(value) for value in one.box)
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
