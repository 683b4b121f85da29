"""The pictures that a prompt's record shows, for families of edit pipelines."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mmrl.modalities.image.families.asked import Source
from mmrl.modalities.image.pixels import digest
from mmrl.modalities.kept import Kept
from mmrl.pictures import PictureError, check_image, image_size, open_image
from mmrl.types import Prompt

# Bytes of opened pictures that are kept: 80 of 1024 x 1024.
LIMIT = 256 << 20


class _Opened(NamedTuple):
    source: Source
    ref: Any  # held, so that no other reference comes to its place in memory

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

    def sizes(self, prompt: Prompt) -> list[tuple[int, int]]:
        """(width, height) of each. Raises PictureError for one that cannot be opened, as far as its head and its end
        tell."""
        with _named(prompt):
            for ref in refs(prompt):
                check_image(ref, prompt.root, self.bound)
            return [image_size(ref, prompt.root, self.bound) for ref in refs(prompt)]

    def _one(self, ref: Any, prompt: Prompt) -> Source:
        key: Hashable = (prompt.root, ref if isinstance(ref, str) else id(ref))
        known = self._kept.get(key)
        if known is None:
            with _named(prompt):
                image = open_image(ref, prompt.root, self.bound)
            known = _Opened(Source(digest(image), image), ref)
            self._kept.put(key, known)
        return known.source


@contextmanager
def _named(prompt: Prompt) -> Iterator[None]:
    """Errors of pictures name their prompt."""
    try:
        yield
    except PictureError as error:
        raise PictureError(f"prompt {prompt.id!r}: {error}", prompt.id) from None
