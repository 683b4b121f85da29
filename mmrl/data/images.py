"""The pictures of records: looked at before a run starts, bound to their folder, written beside a file of records."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrl.pictures import candidate_refs, check_image, is_video, open_image


def check_images(record: Mapping[str, Any], root: str | None, max_pixels: int, targets: Sequence[Any] = ()) -> None:
    """Look at a record's `images`, and its candidates', so that a run does not end at one that is missing, too large or
    cut off.

    targets: pictures of its other columns, which are looked at, too. Functions are not called. Raises PictureError, a
    ValueError, for the first one that cannot be used.
    """
    for ref in [*_refs(record), *targets]:
        check_image(ref, root, max_pixels)


def decode_images(record: Mapping[str, Any], root: str | None, max_pixels: int) -> None:
    """Open all of a record's pictures, also what neither the head nor the end of a file tells of. Raises PictureError
    for the first one that cannot be used."""
    for ref in _refs(record):
        for one in ref["frames"] if is_video(ref) else [ref]:
            open_image(one, root, max_pixels)


def bound_images(record: Mapping[str, Any], root: str | None, max_pixels: int) -> dict[str, Any]:
    """The record with each name in `images` (its candidates' too) as a function that opens it, so that it stands
    without its folder."""
    made = _changed(record, lambda one: _bound(one, root, max_pixels))
    return {**made, "images": made.get("images") or []}


def stored_images(record: Mapping[str, Any], root: str | None, folder: Path, max_pixels: int) -> dict[str, Any]:
    """The record with its pictures as PNG files `pictures/...` below `folder`, named by what they show."""
    return _changed(record, lambda one: _stored(one, root, folder, max_pixels))


def _refs(record: Mapping[str, Any]) -> list[Any]:
    return [*(record.get("images") or ()), *candidate_refs(record)]


def _changed(record: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The record with each of its pictures changed, those of its candidates, too."""
    made = dict(record)
    if record.get("images"):
        made["images"] = [_each(ref, change) for ref in record["images"]]
    if candidate_refs(record):
        made["candidates"] = [
            {**each, "images": [_each(ref, change) for ref in each["images"]]}
            if isinstance(each, Mapping) and each.get("images")
            else each
            for each in record["candidates"]
        ]
    return made


def _each(ref: Any, change: Callable[[Any], Any]) -> Any:
    """A picture, changed; or a video, each of its frames."""
    return {**ref, "frames": [change(one) for one in ref["frames"]]} if is_video(ref) else change(ref)


def _bound(ref: Any, root: str | None, max_pixels: int) -> Any:
    return functools.partial(open_image, ref, root, max_pixels) if isinstance(ref, str) else ref


def _stored(ref: Any, root: str | None, folder: Path, max_pixels: int) -> str:
    picture = open_image(ref, root, max_pixels)
    digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:24]
    path = folder / "pictures" / f"{digest}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{digest}.{os.getpid()}.tmp")
        picture.save(temporary, "PNG")
        os.replace(temporary, path)
    return f"pictures/{path.name}"
