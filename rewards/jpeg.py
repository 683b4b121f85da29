"""Size as a JPEG: the reward that needs no model. Useful to see that a policy learns at all."""

from __future__ import annotations

import io

from PIL import Image

from mmrl.types import Sample


def compressible(samples: list[Sample], quality: int = 95, scale: float = 500.0) -> list[float]:
    """-(kB of the picture as a JPEG) / scale, 1 kB = 1000 bytes: larger for plainer pictures.

    The formula and its defaults are those of Flow-GRPO's JPEG compressibility, after DDPO (arXiv:2305.13301).
    """
    return [-_kilobytes(sample.artifact, quality) / scale for sample in samples]


def incompressible(samples: list[Sample], quality: int = 95, scale: float = 500.0) -> list[float]:
    """(kB of the picture as a JPEG) / scale: larger for busier pictures. The negative of `compressible`."""
    return [_kilobytes(sample.artifact, quality) / scale for sample in samples]


def _kilobytes(image: Image.Image, quality: int) -> float:
    buffer = io.BytesIO()
    plain = image.convert("RGB")
    if plain.info:  # a comment would be written beside the pixels
        plain = plain.copy()
        plain.info = {}
    plain.save(buffer, format="JPEG", quality=quality)
    return buffer.tell() / 1000
