"""Stored pictures, and pictures as a part of a page."""

from __future__ import annotations

import base64
import io
import warnings

from PIL import Image

from mmrl.reporting.folder import RunFolder, Unreadable

MAX_SIDE = 320  # larger ones are inlined at this size
MOST_PICTURE_BYTES = 64_000_000
MOST_PIXELS = 64_000_000


def picture_of(folder: RunFolder, name: str) -> Image.Image:
    """The pixels of a stored picture. Raises Unreadable."""
    path = folder.file(name, MOST_PICTURE_BYTES)
    try:
        with warnings.catch_warnings(action="error"), Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            image.load()
            return image.copy()
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise Unreadable(f"{name} is no picture that can be shown ({str(error)[:100]})") from None


def data_uri(image: Image.Image, most: int = MAX_SIDE) -> str:
    """A PNG data URI, at most `most` pixels wide or high."""
    if max(image.size) > most:
        image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
