"""Messages with pictures, as OpenAI-compatible servers take them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG: what comes out at the other end is what went in."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def content(text: str, pictures: Sequence[bytes] = ()) -> str | list[dict[str, Any]]:
    """The content of a message: a text, or a list of parts, pictures (PNG) first."""
    if not pictures:
        return text
    shown = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64_of(data)}"}} for data in pictures
    ]
    return [*shown, *([{"type": "text", "text": text}] if text else [])]
