"""What is to be rated: a row of a request, as a Prompt with its candidate, or with several that are compared."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmrl.pictures import PictureError, check_image, image_size
from mmrl.types import Candidate, Prompt

# Pillow's readers of these are the ones that everybody's pictures go through.
_BEGINNINGS = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "WEBP": b"RIFF"}


class BadRow(ValueError):
    """A row that cannot be rated; the message is its error."""


@dataclass(frozen=True)
class Row:
    """One row. fault: why it cannot be rated; nothing else of it is then looked at.

    candidates: one that is rated alone or in its group, or those that are compared with one another. group: what the
    sender calls its group; None for none. order, seed: how candidates are to be shown. key: its idempotency key.
    fingerprint: of all that its rating depends on.
    """

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    group: str | None = None
    order: tuple[int, ...] = ()
    seed: int = 0
    key: str | None = None
    fingerprint: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a row got: named finite numbers; or none, and why. A None among them does not apply.

    said: the judge's words. status: of HTTP, where the request as a whole has no answer for now; 0 elsewhere.
    """

    values: Mapping[str, float | None] = field(default_factory=dict)
    reason: str = ""
    said: str = ""
    status: int = 0

    @property
    def failed(self) -> bool:
        return not self.values


@dataclass
class Pixels:
    """How many the pictures of a request may have: each of them, and all that are taken together, which a reward may
    hold in memory at once."""

    each: int
    together: int
    taken: int = 0

    def take(self, width: int, height: int) -> None:
        if self.taken + width * height > self.together:
            raise BadRow(f"the pictures of this request have over {self.together} pixels; send fewer rows at once")
        self.taken += width * height


def picture(text: str, pixels: Pixels) -> dict[str, Any]:
    """A reference to a picture that came as base64. Raises BadRow for what is no PNG, JPEG or WEBP, too large or cut
    off."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRow("a picture is no base64") from None
    if not any(data.startswith(beginning) for beginning in _BEGINNINGS.values()):
        raise BadRow(f"a picture is none of {', '.join(_BEGINNINGS)}")
    reference = {"bytes": data}
    try:
        check_image(reference, None, pixels.each)
        pixels.take(*image_size(reference, None, pixels.each))
    except PictureError as error:
        raise BadRow(str(error).replace("data.max_pixels=", "the server's bound of pixels, ")) from None
    return reference


def prompt_of(name: str, text: str, images: Sequence[Any], columns: Mapping[str, Any]) -> Prompt:
    """A prompt with the columns that came beside it. Raises BadRow for columns that stand in the place of others."""
    if twice := sorted({"prompt", "image", "images", "messages", "candidates"} & set(columns)):
        raise BadRow(f"metadata has {', '.join(twice)}, which come from history")
    record = {**columns, "prompt": text, **({"images": list(images)} if images else {})}
    return Prompt(name, text, record)


def fingerprint(*parts: Any) -> str:
    """Equal for equal JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
