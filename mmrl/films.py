"""Frames of films as pictures: a folder of pictures, an animation that Pillow reads, or a film (needs PyAV).

A frame is named `FILE#frame=N`, which mmrl.pictures opens as it opens any other picture.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

ANIMATIONS = frozenset({".gif", ".webp", ".png", ".apng", ".tif", ".tiff"})
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm"})
FILMS = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg"})
_FRAME = re.compile(r"#frame=(\d{1,9})$")


class FilmError(ValueError):
    """A film that cannot be shown; says why, in words that follow its name."""


@dataclass(frozen=True)
class Frames:
    """Frames of a film. refs: what mmrl.pictures opens; numbers: their places among `total`; fps: None: nobody says."""

    refs: list[Any]
    numbers: tuple[int, ...]
    total: int
    fps: float | None = None


def split_frame(name: str) -> tuple[str, int | None]:
    """(file, number of the frame that the name asks for, None for a name of a whole picture)."""
    found = _FRAME.search(name)
    return (name[: found.start()], int(found[1])) if found else (name, None)


def is_film(path: Path) -> bool:
    """Whether its frames are read by PyAV."""
    return path.suffix.lower() in FILMS


def frames_of(film: Any, path: Path | None, most: int) -> Frames:
    """At most `most` frames of a film, evenly spaced and in order.

    film: a list of pictures, or the name of what is at `path`: a folder, whose pictures are taken in the order of their
    names (a number counts as one), an animation, or a film. Raises FilmError, ImportError without PyAV.
    """
    if isinstance(film, list | tuple):
        return _of_list(film, most)
    if not isinstance(film, str) or path is None:
        raise FilmError(f"is {type(film).__name__}, expected a list of pictures or the name of a folder or a file")
    if path.is_dir():
        names = sorted((p.name for p in path.iterdir() if p.suffix.lower() in PICTURES), key=_natural)
        if not names:
            raise FilmError(f"is a folder without pictures of {', '.join(sorted(PICTURES))}")
        return _of_list([f"{film.rstrip('/')}/{name}" for name in names], most)
    if not path.is_file():
        raise FilmError("is no folder and no file")
    total, fps = _count(path)
    numbers = _spread(total, most)
    if total == 1 and not is_film(path):
        return Frames([film], numbers, total)
    return Frames([f"{film}#frame={number}" for number in numbers], numbers, total, fps)


@contextmanager
def opened_film(path: Path) -> Iterator[Any]:
    """The film and its first stream of pictures. Raises ImportError without PyAV, FilmError for what it cannot read."""
    try:
        import av
    except ImportError:
        raise ImportError(f"films such as {path.name!r} need the package 'av': pip install \"mmrl[video]\"") from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise FilmError("has no pictures")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.FFmpegError as error:
        raise FilmError(f"cannot be read: {str(error).splitlines()[0][:120]}") from None


def film_size(path: Path) -> tuple[int, int]:
    """(width, height) of a film's frames, from its head."""
    return _film_size(path, path.stat().st_mtime_ns)


def film_frame(path: Path, number: int) -> Image.Image:
    """A frame of a film, counted from 0. Raises FilmError where there are fewer."""
    with opened_film(path) as (container, stream):
        for place, frame in enumerate(container.decode(stream)):
            if place == number:
                return frame.to_image()
    raise FilmError(f"has no frame {number}")


@functools.lru_cache(maxsize=100_000)
def _film_size(path: Path, changed: int) -> tuple[int, int]:
    with opened_film(path) as (_, stream):
        return stream.codec_context.width, stream.codec_context.height


def _count(path: Path) -> tuple[int, float | None]:
    """(frames of a film, how many a second)."""
    if is_film(path):
        with opened_film(path) as (container, stream):
            rate = float(stream.average_rate) if stream.average_rate else None
            return stream.frames or sum(1 for packet in container.demux(stream) if packet.size), rate
    from PIL import Image

    if path.suffix.lower() not in ANIMATIONS:
        kinds = ", ".join(sorted(ANIMATIONS | FILMS))
        raise FilmError(f"is no film: give a folder of pictures, or a file of {kinds}")
    try:
        with Image.open(path) as image:
            duration = image.info.get("duration")
            return int(getattr(image, "n_frames", 1)), 1000 / duration if duration else None
    except (OSError, ValueError, SyntaxError) as error:
        raise FilmError(f"cannot be read: {type(error).__name__}") from None


def _of_list(refs: Sequence[Any], most: int) -> Frames:
    numbers = _spread(len(refs), most)
    return Frames([refs[number] for number in numbers], numbers, len(refs))


def _spread(count: int, most: int) -> tuple[int, ...]:
    """The middle of each of `most` equal parts of `count`; all where there are no more."""
    if not count:
        raise FilmError("has no frames")
    if count <= most:
        return tuple(range(count))
    return tuple((2 * part + 1) * count // (2 * most) for part in range(most))


def _natural(name: str) -> list[tuple[int, int | str]]:
    """2.png before 10.png."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
