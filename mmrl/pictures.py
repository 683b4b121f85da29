"""Opening pictures that records name: files below a folder, pictures that a table holds, functions that draw one.

Whatever a picture was, it comes out as RGB, upright, and no larger than the bound, which holds before it is decoded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrl.films import FilmError, film_frame, film_size, is_film, split_frame
from mmrl.located import cut_short, file_at, why
from mmrl.located import path_of as located
from mmrl.media import MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

# Other formats that Pillow knows are vector files, which start programs, or films.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
ORIENTATION = 0x0112  # the EXIF tag
_SIDEWAYS = (5, 6, 7, 8)  # its values for pictures that lie on their side
_END = 64  # bytes of a file in which its format's end stands


class PictureError(MediaError):
    """A picture that cannot be used; the message names it and says why."""


def open_image(ref: Any, root: str | Path | None, max_pixels: int) -> Image.Image:
    """A picture as RGB; of a video as a whole its first frame.

    ref: a file name below `root`, or `share://...`, with `#frame=N` for a frame of an animation or a film; a PIL
    picture; {"bytes": ..., "path": ...} as tables hold it; or a function without arguments that returns one of these.
    max_pixels: width x height that is decoded at most.

    Turned upright by its EXIF orientation: the pixels that boxes count are those of the result. Transparency becomes
    white. Of several frames or pages the first is taken, with a warning. Grey of 16 bits is scaled to 8.
    Raises PictureError for what is missing, outside `root`, a URL, larger than max_pixels, corrupt, of another format
    than FORMATS, or no picture at all.
    """
    from PIL import Image

    ref = ref["frames"][0] if is_video(ref) else ref
    ref, name = _drawn(ref), _name(ref)
    if isinstance(ref, Image.Image):
        _bounded(ref, name, max_pixels)
        return _read(lambda: _upright(ref), name)
    film = _film(ref, root)
    if film is not None:
        _within(film_size(film[0]), name, max_pixels)
        return _read(lambda: _rgb(film_frame(*film)), name)
    with _opened(ref, root, name) as image:
        _bounded(image, name, max_pixels)
        frames = _read(lambda: getattr(image, "n_frames", 1), name)
        frame = split_frame(ref)[1] if isinstance(ref, str) else None
        if frame is not None:
            _read(lambda: image.seek(frame), name)
        elif frames > 1 and image.format != "MPO":  # of which the second is a preview
            warnings.warn(f"picture {name}: it has {frames} frames, the first is taken", stacklevel=2)
        return _read(lambda: _upright(image), name)


def candidate_refs(record: Mapping[str, Any]) -> list[Any]:
    """The pictures of a pair's candidates, candidate by candidate: the `images` of those in its list `candidates`."""
    candidates = record.get("candidates")
    if not isinstance(candidates, list | tuple):
        return []
    given = [each.get("images") or () for each in candidates if isinstance(each, Mapping)]
    return [ref for refs in given for ref in (refs if isinstance(refs, list | tuple) else [refs])]


def is_video(ref: Any) -> bool:
    """Whether a reference is a video as a whole: {"frames": [picture ...], ...}."""
    return isinstance(ref, Mapping) and isinstance(ref.get("frames"), list) and bool(ref["frames"])


def check_image(ref: Any, root: str | Path | None, max_pixels: int) -> None:
    """Raise PictureError for a picture that `open_image` would refuse, as far as its head and its end tell.

    Pixels are decoded only where the file does not end as its format does. A function is not called.
    """
    if is_video(ref):
        for frame in ref["frames"]:
            check_image(frame, root, max_pixels)
        return
    if callable(ref):
        return
    from PIL import Image

    name = _name(ref)
    if isinstance(ref, Image.Image):
        _bounded(ref, name, max_pixels)
        return
    film = _film(ref, root)
    if film is not None:
        _within(_read(lambda: film_size(film[0]), name), name, max_pixels)
        return
    with _opened(ref, root, name) as image:
        _bounded(image, name, max_pixels)
        if not _read(lambda: _ends(image), name):
            _read(image.load, name)


def image_size(ref: Any, root: str | Path | None, max_pixels: int) -> tuple[int, int]:
    """(width, height) of what `open_image` returns, from the head of a file, which is not decoded.

    Raises PictureError as `open_image` does, but for pixels that turn out corrupt.
    """
    from PIL import Image

    ref = ref["frames"][0] if is_video(ref) else ref
    ref, name = _drawn(ref), _name(ref)
    if isinstance(ref, Image.Image):
        _bounded(ref, name, max_pixels)
        return _size(ref)
    film = _film(ref, root)
    if film is not None:
        size: tuple[int, int] = _read(lambda: film_size(film[0]), name)
        return _within(size, name, max_pixels)
    with _opened(ref, root, name) as image:
        _bounded(image, name, max_pixels)
        return _read(lambda: _size(image), name)


# -------------------------------------------------------------------- where it is


def _drawn(ref: Any) -> Any:
    """What a function draws, or the reference itself."""
    if not callable(ref):
        return ref
    try:
        made = ref()
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"picture: {_name(ref)} failed: {type(error).__name__}: {error}") from error
    if callable(made):
        raise PictureError(f"picture: {_name(ref)} returned a function, expected a picture")
    return made


@contextmanager
def _opened(ref: Any, root: str | Path | None, name: str) -> Iterator[Image.Image]:
    """The picture's head, read; its pixels are not."""
    from PIL import Image

    if isinstance(ref, Mapping) and ref.get("bytes") is None and isinstance(ref.get("path"), str):
        ref = ref["path"]
    if isinstance(ref, Mapping) and isinstance(ref.get("bytes"), bytes):
        source: Any = io.BytesIO(ref["bytes"])
    elif isinstance(ref, str):
        source = _file(split_frame(ref)[0], root)
    else:
        raise PictureError(f"picture: expected a file name or a picture, got {type(ref).__name__}")
    with _read(lambda: Image.open(source, formats=FORMATS), name) as image:
        yield image


def _file(name: str, root: str | Path | None) -> Path:
    """The file's path. Raises PictureError for what is no regular file."""
    return file_at(path_of(name, root), f"picture {cut_short(name)}", PictureError)


def _film(ref: Any, root: str | Path | None) -> tuple[Path, int] | None:
    """(file, frame) of a reference to a frame of a film; None for any other."""
    if not isinstance(ref, str):
        return None
    name, frame = split_frame(ref)
    path = _file(name, root) if frame is not None else None
    return (path, frame) if path is not None and frame is not None and is_film(path) else None


def path_of(name: str, root: str | Path | None) -> Path:
    """Where a name of a record is: below `root`, or `share://...`. Raises PictureError for one that is elsewhere."""
    return located(name, root, "picture", PictureError)


# -------------------------------------------------------------------- what it is


def _bounded(image: Image.Image, name: str, max_pixels: int) -> None:
    _within(image.size, name, max_pixels)


def _within(size: tuple[int, int], name: str, max_pixels: int) -> tuple[int, int]:
    if size[0] * size[1] > max_pixels:
        raise PictureError(
            f"picture {name}: {size[0]}x{size[1]} is over data.max_pixels={max_pixels}; "
            "scale it down or raise the bound"
        )
    return size


def _ends(image: Any) -> bool:
    """Whether the file ends as a whole one of its format does: what was cut off while it was copied does not."""
    file = image.fp
    if file is None:
        return False
    place = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END))
    end = file.read().rstrip(b"\0")
    file.seek(0)
    head = file.read(8)
    file.seek(place)
    if image.format == "PNG":
        return b"IEND" in end
    if image.format in ("JPEG", "MPO"):
        return end.endswith(b"\xff\xd9")
    return image.format == "WEBP" and 8 + int.from_bytes(head[4:8], "little") <= size


def _size(image: Image.Image) -> tuple[int, int]:
    # Pillow decodes a whole PNG to look behind its pixels for what could turn it.
    plain = image.format == "PNG" and "exif" not in image.info and not _notes_behind(image)
    sideways = not plain and image.getexif().get(ORIENTATION) in _SIDEWAYS
    return (image.height, image.width) if sideways else image.size


def _notes_behind(image: Any) -> bool:
    """Whether a PNG has words about itself behind its pixels, as few have."""
    file, pixels = image.fp, False
    if file is None:
        return True
    place = file.tell()
    file.seek(8)
    try:
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            pixels = pixels or kind == b"IDAT"
            if pixels and kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        raise PictureError("its pixels are floats; save it with 8 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    above = image.convert("RGBA")
    white = Image.new("RGBA", above.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, above).convert("RGB")


def _read(what: Callable[[], Any], name: str) -> Any:
    """The result of reading a picture, what goes wrong in it as PictureError."""
    from PIL import UnidentifiedImageError

    try:
        return what()
    except FilmError as error:
        raise PictureError(f"picture {name}: {error}") from None
    except ImportError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"picture {name}: cannot be read: it is no picture of {', '.join(FORMATS)}") from None
    # Pillow's readers raise whatever a broken file leads them to: OSError, SyntaxError, struct.error, EOFError ...
    except Exception as error:
        raise PictureError(f"picture {name}: cannot be read: {why(error)}") from None


def _name(ref: Any) -> str:
    if isinstance(ref, str):
        return cut_short(ref)
    if isinstance(ref, Mapping):
        return cut_short(ref["path"]) if isinstance(ref.get("path"), str) else "of the table"
    if callable(ref):
        return f"function {cut_short(repr(ref))}"
    return "of the record"
