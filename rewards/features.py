"""Features of pictures of one thing: a frozen model's, a function's of a file, or colours, which need no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmrl.importing import import_file
from mmrl.share import resolve

from .towers import batches, folder_of, load_once, place_of

Features = Callable[[Sequence[Image.Image]], np.ndarray]
COLOURS = "colours"
_LEVELS = 4  # of each channel of `colours`


def open_features(spec: str, batch: int, device: str | None, dtype: str) -> Features:
    """[N, D] features of unit length of N RGB pictures.

    spec: the folder, or the cached hub name, of a vision model of transformers (DINOv2, CLIP, SigLIP ...); `colours`;
    or `file.py:name`, a function of a list of pictures that returns [N, D] numbers. Raises ValueError.
    """
    if spec == COLOURS:
        return lambda pictures: _unit([colours(picture) for picture in pictures], len(pictures), spec)
    if ":" in spec.removeprefix("share://"):
        file, _, name = spec.rpartition(":")
        made: Any = getattr(import_file(resolve(file)), name, None)
        if not callable(made):
            raise ValueError(f"features: {file} has no function {name!r}")
        return lambda pictures: _unit(made(list(pictures)), len(pictures), spec)
    tower = Tower(spec, batch, device, dtype)
    return lambda pictures: _unit(tower(pictures), len(pictures), spec)


def colours(picture: Image.Image) -> np.ndarray:
    """[65] the square roots of the shares of 64 colours in the middle of a picture, which is that of the thing; what is
    nearly white is counted apart, as none of it.

    Their cosine is the Bhattacharyya coefficient of two pictures' colours. For tests and shapes of one colour.
    """
    width, height = picture.size
    inner = picture.convert("RGB").crop((width // 4, height // 4, width - width // 4, height - height // 4))
    pixels = np.asarray(inner, dtype=int).reshape(-1, 3)
    bins = (pixels * _LEVELS // 256) @ np.array([_LEVELS**2, _LEVELS, 1])
    bins[(pixels > 224).all(1)] = _LEVELS**3
    shares = np.bincount(bins, minlength=_LEVELS**3 + 1) / len(bins)
    shares[-1] = 0.0 if shares[-1] < 1.0 else 1.0
    root: np.ndarray = np.sqrt(shares)
    return root


class Tower:
    """A vision model of transformers, frozen: image features of one with two towers, else the pooled output, or the
    first token's where there is none."""

    def __init__(self, name: str, batch: int, device: str | None, dtype: str) -> None:
        batches((), batch)
        folder, self.batch = folder_of(name, "features"), batch
        self.device, kind = place_of(device, dtype)
        from transformers import AutoImageProcessor, AutoModel

        def load() -> Any:
            made: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=kind)
            return made.to(self.device).eval().requires_grad_(False)

        try:
            self.model = load_once(("features", str(folder), str(self.device), dtype), load)
            self.reader: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except OSError as error:
            raise ValueError(f"features: {folder}: no vision model: {str(error).splitlines()[0]}") from None

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        rows = []
        for part in batches(pictures, self.batch):
            pixels = self.reader(images=list(part), return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self.device, next(self.model.parameters()).dtype)
            rows.append(self._embed(pixels).float().cpu().numpy())
        return np.concatenate(rows)

    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        two = hasattr(self.model, "get_image_features")
        told = self.model.get_image_features(pixels) if two else self.model(pixels)
        pooled: torch.Tensor | None = getattr(told, "pooler_output", None)
        return told.last_hidden_state[:, 0] if pooled is None else pooled


def _unit(rows: Any, count: int, spec: str) -> np.ndarray:
    """Rows of unit length. Raises ValueError for what is no [count, D] of finite numbers."""
    made = np.asarray(rows, dtype=np.float64)
    if made.ndim != 2 or len(made) != count or not np.isfinite(made).all():
        raise ValueError(f"features {spec}: got {list(made.shape)}, expected [{count}, D] finite numbers")
    unit: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True).clip(min=1e-12)
    return unit
