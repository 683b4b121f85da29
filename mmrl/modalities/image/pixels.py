"""Pictures to tensors and back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pixels(images: Sequence[Image.Image], size: tuple[int, int]) -> Tensor:
    """RGB pictures -> [b, 3, H, W] in [-1, 1]; other sizes are scaled to cover and cropped at the centre."""
    height, width = size
    rows = []
    for image in images:
        rgb = image.convert("RGB")
        if rgb.size != (width, height):
            scale = max(width / rgb.width, height / rgb.height)
            wide, high = max(width, round(rgb.width * scale)), max(height, round(rgb.height * scale))
            rgb = rgb.resize((wide, high), Image.Resampling.LANCZOS)
            left, top = (wide - width) // 2, (high - height) // 2
            rgb = rgb.crop((left, top, left + width, top + height))
        rows.append(np.asarray(rgb))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 127.5 - 1


def digest(image: Image.Image) -> str:
    """A name for what a picture shows: the same for equal pixels, whatever they came from."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """[b, 3, H, W] in [-1, 1] (clamped) -> RGB pictures."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in array]
