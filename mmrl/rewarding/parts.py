"""Pictures inside chat messages: the parts of a message's content, as OpenAI-compatible servers take them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

JPEG = 95  # the quality that the clients of published picture judges send


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def picture_part(picture: Image.Image, quality: int | None = JPEG) -> dict[str, Any]:
    """The picture as a data URL, so that a request is JSON and holds all it needs. quality: as for `data_url`."""
    return {"type": "image_url", "image_url": {"url": data_url(picture, quality)}}


def data_url(picture: Image.Image, quality: int | None = JPEG) -> str:
    """data:image/...;base64,... of an RGB or grey picture: a JPEG of that quality (1 to 100), or with None a PNG."""
    kind, options = ("png", {}) if quality is None else ("jpeg", {"quality": quality})
    return f"data:image/{kind};base64,{encoded(picture, kind, **options)}"


def encoded(picture: Image.Image, kind: str = "png", **options: Any) -> str:
    """The picture's file in base64. kind: a format of Pillow; options: those of its writer."""
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return base64.b64encode(file.getvalue()).decode("ascii")


def picture_bytes(part: Mapping[str, Any]) -> bytes | None:
    """The file inside a part that `picture_part` made, None for a part of another type.

    Raises ValueError for a picture that is no data URL in base64: nothing is fetched.
    """
    if part.get("type") != "image_url":
        return None
    head, _, data = str(part["image_url"]["url"]).partition(";base64,")
    if not head.startswith("data:image/") or not data:
        raise ValueError(f"a picture of a message must be data:image/...;base64,..., got {head[:40]!r}")
    return base64.b64decode(data, validate=True)
