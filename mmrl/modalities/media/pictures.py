"""Pictures as the model reads them: opened, cropped, resized and processed once, and kept for a while."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from numbers import Number
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrl.media import Box, Media, Size, View
from mmrl.modalities.media.eyes import Eyes
from mmrl.modalities.media.film import Film
from mmrl.modalities.media.shown import Shelf, Shown
from mmrl.pictures import ORIENTATION, PictureError, candidate_refs, image_size, is_video, open_image
from mmrl.types import Prompt

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Facts:
    """What is known of a view without its pixels. eyes: what shows it. code, depth, parts: see Eyes."""

    eyes: Eyes
    expansion: Tensor
    code: str
    depth: int
    parts: int
    media: Media

    @property
    def bytes(self) -> int:
        """Memory that they take, but for the expansion, which all pictures of a size share."""
        return 1000


@dataclass(frozen=True)
class Pixels:
    """What a view shows. inputs: what the vision tower takes. image: what the processor was given; a video's frames."""

    inputs: Mapping[str, Tensor]
    image: Any

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        numbers = sum(t.numel() * t.element_size() for t in self.inputs.values())
        images = self.image if isinstance(self.image, list) else [self.image]
        return numbers + sum(image.width * image.height * 3 for image in images)


def picture_refs(prompt: Prompt) -> list[Any]:
    """All pictures that a prompt may show: its own, and behind them those of its candidates."""
    return [*own_refs(prompt), *candidate_refs(prompt.record)]


def own_refs(prompt: Prompt) -> list[Any]:
    """A prompt's own pictures as its record names them: `images`, or `image` alone or as a list."""
    for column in ("images", "image"):
        given = prompt.record.get(column)
        if given is not None and not (isinstance(given, list | tuple) and not given):
            return list(given) if isinstance(given, list | tuple) else [given]
    return []


class PictureShelf(Shelf[Facts, Pixels]):
    """Processed pictures by view: the pixels of some, and of all that were seen what else there is to know.

    eyes: the model's. space: coordinates of the boxes that the policy writes. bound: pixels of a picture that is
    opened at most. limit: bytes of pixels that are kept.
    """

    def __init__(self, eyes: Eyes, space: str, bound: int, limit: int) -> None:
        super().__init__(limit)
        self.eyes, self.space, self.bound = eyes, space, bound
        self._sizes: dict[Hashable, Size] = {}

    def sizes(self, prompt: Prompt) -> list[Size]:
        """(width, height) of a prompt's own pictures. Raises ValueError for one that cannot be opened."""
        return [self._size(ref, prompt) for ref in own_refs(prompt)]

    def get(self, prompt: Prompt, view: View) -> Shown:
        """A view of one of the prompt's pictures, planned from the size of its file: no pixels are read, but for the
        first picture of all, by which processor and model are compared.

        Raises ValueError where there is no such picture, PictureError for one whose head or size cannot be used.
        """
        refs = picture_refs(prompt)
        if not 0 <= view.picture < len(refs):
            raise ValueError(f"prompt {prompt.id!r} has {len(refs)} pictures, picture {view.picture} was asked for")
        ref, among = refs[view.picture], self.eyes.among(len(refs))
        key = (self._key(ref, prompt.root), view, among is not self.eyes)
        facts = self._known(key, lambda: self._planned(among, ref, self._size(ref, prompt), view))
        load = functools.partial(self._pixels, key, prompt, view, facts)
        if not self.processed:
            load()
        media, more = facts.media, (facts.parts, facts.code, facts.depth)
        return Shown(key, facts.expansion, self.eyes.image_id, media.tokens, media, self.eyes, load, *more)

    def _planned(self, eyes: Eyes, ref: Any, original: Size, view: View) -> Facts:
        size = shown_size(original, view)
        try:
            if is_video(ref):
                eyes = Film(eyes, ref["numbers"], ref["total"], ref["fps"])
            expansion, seen = eyes.expansion(size), eyes.seen(size)
            code, depth, parts = eyes.code(size), eyes.depth(size), eyes.parts(size)
        except ValueError as error:
            what = "video" if is_video(ref) else "picture"
            raise PictureError(f"a {what} of {size[0]}x{size[1]} pixels: {error}") from None
        tokens = parts * int(torch.isin(expansion, eyes.slots).sum())
        media = Media(view, original, seen, self.space, tokens, eyes.boxes)
        return Facts(eyes, expansion, code, depth, parts, media)

    def _pixels(self, key: Hashable, prompt: Prompt, view: View, facts: Facts) -> Pixels:
        return self._loaded(key, lambda: self._made(self._opened(prompt, view), facts))

    def _opened(self, prompt: Prompt, view: View) -> Any:
        """The picture that a view shows; a video's frames."""
        ref = picture_refs(prompt)[view.picture]
        refs = ref["frames"] if is_video(ref) else [ref]
        try:
            images = [shown(open_image(one, prompt.root, self.bound), view) for one in refs]
        except PictureError as error:
            raise PictureError(f"prompt {prompt.id!r}: {error}", prompt.id) from None
        if len({image.size for image in images}) > 1:
            raise PictureError(f"prompt {prompt.id!r}: the frames of a video have several sizes", prompt.id)
        return images if is_video(ref) else images[0]

    def _made(self, image: Any, facts: Facts) -> Pixels:
        inputs, seen = facts.eyes.process(image)
        features = facts.eyes.feature_count(inputs)
        if (features, seen) != (facts.media.tokens, facts.media.seen):
            raise ValueError(
                f"a picture of {facts.media.original} has {facts.media.tokens} placeholders and {features} features, "
                f"was meant to become {facts.media.seen} pixels and became {seen}: the processor and the model do not "
                "belong together"
            )
        return Pixels(inputs, image)

    def _size(self, ref: Any, prompt: Prompt) -> Size:
        key = self._key(ref, prompt.root)
        if key not in self._sizes:
            self._sizes[key] = image_size(ref, prompt.root, self.bound)
        return self._sizes[key]

    def _key(self, ref: Any, root: str | None) -> Hashable:
        """source_key; of a PIL picture, whose pixels it would read each time, known while the picture lives."""
        return self._lasting(ref, lambda: source_key(ref, root)) if hasattr(ref, "tobytes") else source_key(ref, root)

    def picture(self, prompt: Prompt, media: Media) -> Image.Image:
        """What was seen of a view, as large as the processor made it, for the report."""
        ref = picture_refs(prompt)[media.view.picture]
        image = shown(open_image(ref, prompt.root, self.bound), media.view)
        return image if image.size == media.seen else image.resize(media.seen)


def shown(source: Image.Image, view: View) -> Image.Image:
    """The picture that a view shows: cropped at whole pixels that contain the crop, then resized (Lanczos)."""
    from PIL import Image

    image = source if view.crop is None else source.crop(_window(source.size, view.crop))
    if view.size is not None and view.size != image.size:
        image = image.resize(view.size, Image.Resampling.LANCZOS)
    return image


def shown_size(original: Size, view: View) -> Size:
    """(width, height) of what `shown` makes of a picture of this size."""
    if view.size is not None:
        return view.size
    if view.crop is None:
        return original
    left, top, right, bottom = _window(original, view.crop)
    return right - left, bottom - top


def _window(size: Size, crop: Box) -> tuple[int, int, int, int]:
    """The whole pixels that contain a crop; at least one."""
    x1, y1, x2, y2 = crop
    left, top = max(0, int(x1)), max(0, int(y1))
    right, bottom = min(size[0], -int(-x2 // 1)), min(size[1], -int(-y2 // 1))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def source_key(ref: Any, root: str | None) -> Hashable:
    """Equal for references to the same picture."""
    if isinstance(ref, str):
        return (root, ref)
    if isinstance(ref, functools.partial):
        arguments = (ref.args, sorted(ref.keywords.items()))
        if _is_told(arguments):
            return (ref.func.__module__, ref.func.__qualname__, repr(arguments))
    if isinstance(ref, Mapping) and isinstance(ref.get("bytes"), bytes):
        return hashlib.sha256(ref["bytes"]).hexdigest()
    if isinstance(ref, Mapping) and isinstance(ref.get("path"), str):
        return (root, ref["path"])
    if is_video(ref):
        return (tuple(source_key(one, root) for one in ref["frames"]), tuple(ref["numbers"]), ref["total"], ref["fps"])
    if hasattr(ref, "tobytes"):
        # All that open_image reads: equal numbers are other pictures in another mode, palette or orientation.
        meaning = (ref.mode, ref.size, ref.getpalette(), ref.info.get("transparency"), ref.getexif().get(ORIENTATION))
        return hashlib.sha256(repr(meaning).encode() + ref.tobytes()).hexdigest()
    # As a key it stays alive: the address of something that is gone may come again for another picture.
    return ref if isinstance(ref, Hashable) else _Itself(ref)


def _is_told(value: Any) -> bool:
    """Whether its repr tells a value from all others: that of an object may be an address, that of a long array leaves
    its middle out."""
    if isinstance(value, tuple | list):
        return all(map(_is_told, value))
    if isinstance(value, dict):
        return all(_is_told(pair) for pair in value.items())
    return value is None or isinstance(value, str | bytes | Number | PurePath)


class _Itself:
    """Stands for one object, and keeps it."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.held is self.held

    def __hash__(self) -> int:
        return id(self.held)
