"""The pictures that a prompt's record shows, for families of edit pipelines."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from mmrl.modalities.image.families.source import Source
from mmrl.modalities.image.pixels import digest
from mmrl.modalities.kept import Kept
from mmrl.pictures import PictureError, open_image
from mmrl.types import Prompt

# Bytes of opened pictures that are kept: 80 of 1024 x 1024.
LIMIT = 256 << 20


class _Opened(NamedTuple):
    source: Source

    @property
    def bytes(self) -> int:
        return self.source.image.width * self.source.image.height * 3


def refs(prompt: Prompt) -> list[Any]:
    """What the column `images` of its record names, or none."""
    given = prompt.record.get("images") or ()
    return list(given) if isinstance(given, list | tuple) else [given]


class Sources:
    """prompt -> its pictures, opened; bound: pixels of one that is opened at most."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._kept: Kept[_Opened] = Kept(LIMIT)

    def __call__(self, prompt: Prompt) -> tuple[Source, ...]:
        """Raises PictureError, which names the prompt, for one that cannot be opened."""
        return tuple(self._one(ref, prompt) for ref in refs(prompt))

    def _one(self, ref: Any, prompt: Prompt) -> Source:
        key: Hashable | None = (prompt.root, ref) if isinstance(ref, str) else None
        known = self._kept.get(key) if key is not None else None
        if known is None:
            try:
                image = open_image(ref, prompt.root, self.bound)
            except PictureError as error:
                raise PictureError(f"prompt {prompt.id!r}: {error}", prompt.id) from None
            known = _Opened(Source(digest(image), image))
            if key is not None:
                self._kept.put(key, known)
        return known.source
