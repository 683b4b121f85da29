"""Messages with pictures, as OpenAI-compatible servers take them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmrl.media import IMAGE

if TYPE_CHECKING:
    from PIL import Image

JPEG = 95  # the quality that the clients of published picture judges send


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG: what comes out at the other end is what went in."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def jpeg(picture: Image.Image, quality: int = JPEG) -> bytes:
    """The picture as a JPEG of that quality, 1 to 100: a fifth of the bytes, and some loss."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=quality)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def picture_part(picture: Image.Image, quality: int | None = JPEG) -> dict[str, Any]:
    """The picture as a data URL, so that a request is JSON and holds all it needs: a JPEG, or with None a PNG."""
    return _part("png", png(picture)) if quality is None else _part("jpeg", jpeg(picture, quality))


def content(text: str, pictures: Sequence[bytes] = ()) -> str | list[dict[str, Any]]:
    """The content of a message: a text, or a list of parts. Pictures (PNG) stand where the text has `<image>` for each,
    otherwise first."""
    if not pictures:
        return text
    pieces = text.split(IMAGE)
    if len(pieces) != len(pictures) + 1:
        pieces = [*[""] * len(pictures), text]
    parts: list[dict[str, Any]] = []
    for place, piece in enumerate(pieces):
        parts += [text_part(piece)] if piece else []
        parts += [_part("png", pictures[place])] if place < len(pictures) else []
    return parts


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


def _part(kind: str, data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64_of(data)}"}}
