"""Conversations in the sample store: turns and pictures as JSON, and each different picture saved once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmrl.media import Excerpt, Heard, Media, Perceived, Place, View
from mmrl.reporting.artifacts import PNG_MODES, save_artifact
from mmrl.reporting.sounds import save_sound
from mmrl.types import Sample, Turn

# (sample, one of its media) -> the picture that the policy saw, [n] float32 at 16 kHz that it heard, or None: nothing
# is stored then.
Render = Callable[[Sample, Any], Image.Image | np.ndarray | None]


def turn_record(turn: Turn) -> dict[str, Any]:
    """A turn as JSON."""
    return {"role": turn.role, "text": turn.text, "media": list(turn.media), "trained": turn.trained}


def read_turn(record: Mapping[str, Any]) -> Turn:
    """The inverse of `turn_record`."""
    return Turn(record["role"], record["text"], tuple(record["media"]), record["trained"])


def media_record(media: Perceived) -> dict[str, Any]:
    """What was shown or heard, as JSON: `picture`, `crop` and `size` of the view, or `sound`, `start` and `end` of the
    excerpt, and the rest of Media or Heard."""
    if isinstance(media, Heard):
        heard = media.view
        told = {"sound": heard.sound, "start": heard.start, "end": heard.end}
        return {**told, "seconds": media.seconds, "tokens": media.tokens}
    view = media.view
    return {
        "picture": view.picture,
        "crop": view.crop and list(view.crop),
        "size": view.size and list(view.size),
        "original": list(media.original),
        "seen": list(media.seen),
        "space": media.space,
        "tokens": media.tokens,
    }


def read_media(record: Mapping[str, Any]) -> Perceived:
    """The inverse of `media_record`; other keys are not looked at."""
    if "sound" in record:
        excerpt = Excerpt(record["sound"], record["start"], record["end"])
        return Heard(excerpt, record["seconds"], record["tokens"])
    crop, size = record["crop"], record["size"]
    view = View(record["picture"], crop and tuple(crop), size and tuple(size))
    return Media(view, tuple(record["original"]), tuple(record["seen"]), record["space"], record["tokens"])


class GroupPictures:
    """Saves what the samples of one group saw and heard in `folder`, each different view and excerpt once."""

    def __init__(self, folder: Path, stem: str, render: Render) -> None:
        self.folder, self.stem, self.render = folder, stem, render
        self._saved: dict[Place, dict[str, str]] = {}

    def save(self, sample: Sample, media: Perceived) -> dict[str, str]:
        """{"file": name}, or {"problem": why} for what can no longer be opened; {} where nothing is rendered."""
        if media.view not in self._saved:
            self._saved[media.view] = self._made(sample, media)
        return self._saved[media.view]

    def _made(self, sample: Sample, media: Perceived) -> dict[str, str]:
        try:
            image = self.render(sample, media)
        except (OSError, ValueError) as error:
            return {"problem": str(error)}
        if image is None:
            return {}
        if isinstance(image, np.ndarray):
            return {"file": save_sound(image, self.folder, f"{self.stem}_heard_{len(self._saved):02d}")}
        image = image if image.mode in PNG_MODES else image.convert("RGB")
        return {"file": save_artifact(image, self.folder, f"{self.stem}_seen_{len(self._saved):02d}")}
