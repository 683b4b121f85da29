"""Pictures and films to tensors and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmrl.media import Clip
from mmrl.modalities.image.families.asked import Extent


def to_pixels(images: Sequence[Image.Image], size: Extent) -> Tensor:
    """RGB pictures -> [b, 3, H, W] in [-1, 1]; other sizes are scaled to cover and cropped at the centre."""
    height, width = size[:2]
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


def clips_to_pixels(clips: Sequence[Clip], size: Extent) -> Tensor:
    """Films -> [b, 3, F, H, W] in [-1, 1], each frame as `to_pixels` makes it. Raises ValueError for one of another
    number of frames."""
    for clip in clips:
        if len(clip) != size.frames:
            raise ValueError(
                f"a film of {len(clip)} frames, and the model draws {size.frames} (model.sampling.frames); "
                "data.video_frames says how many are taken of a longer one"
            )
    return torch.stack([to_pixels(clip.frames, size).transpose(0, 1) for clip in clips])


def clip_digest(clip: Clip) -> str:
    """A name for what a film shows."""
    return hashlib.sha256("".join(map(digest, clip.frames)).encode()).hexdigest()


def to_clips(pixels: Tensor) -> list[Clip]:
    """[b, 3, F, H, W] in [-1, 1] (clamped) -> films of RGB pictures."""
    return [Clip(tuple(to_pictures(film.transpose(0, 1)))) for film in pixels]


@dataclass(frozen=True)
class Medium:
    """What a family draws.

    column: of a record, the example of it. pixels: examples and their extent -> a tensor in [-1, 1]. drawn: the
    inverse, artifacts of samples. digest: a name for what one shows.
    """

    column: str
    pixels: Callable[[Sequence[Any], Extent], Tensor]
    drawn: Callable[[Tensor], list[Any]]
    digest: Callable[[Any], str]


PICTURES = Medium("image", to_pixels, to_pictures, digest)
CLIPS = Medium("video", clips_to_pixels, to_clips, clip_digest)
