"""Saving what a policy made, by Python type, and reading it back unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from mmrl.media import Clip
from mmrl.solids.shown import Solid

PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
FILM = ".film.png"  # a film as one picture, its frames side by side
ROW = 9  # frames of a film side by side
SHEETS = ("L", "RGB", "RGBA")  # modes of its frames
COUNT = "mmrl-frames"  # how many there are, in the words of the PNG


@dataclass(frozen=True)
class ArtifactType:
    """How one Python type lives on disk. `suffix` starts with a dot and belongs to this type alone; it may end as that
    of another type does, which then does not have its files."""

    kind: type
    suffix: str
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]


_types: list[ArtifactType] = []


def register_artifact(kind: type, suffix: str, save: Callable[[Any, Path], None], load: Callable[[Path], Any]) -> None:
    """Teach the run folder a new type. Later registrations are asked first, so a subclass can have its own.

    Raises ValueError when the suffix is taken, because files are loaded by their suffix.
    """
    if not suffix.startswith("."):
        raise ValueError(f"artifact suffix {suffix!r} must start with a dot")
    taken = next((known for known in _types if known.suffix == suffix), None)
    if taken:
        raise ValueError(f"artifact suffix {suffix!r} already belongs to {taken.kind.__name__}; choose another")
    _types.insert(0, ArtifactType(kind, suffix, save, load))


def save_artifact(artifact: Any, folder: Path, stem: str) -> str:
    """Write `artifact` as folder/stem + the suffix of its type; returns the file's name.

    Raises TypeError for a type nobody registered.
    """
    for known in _types:
        if isinstance(artifact, known.kind):
            name = stem + known.suffix
            known.save(artifact, Path(folder) / name)
            return name
    names = ", ".join(sorted(known.kind.__name__ for known in _types))
    raise TypeError(
        f"cannot save an artifact of type {type(artifact).__name__} (stem {stem!r}); known types: {names}. "
        "Register it with mmrl.reporting.artifacts.register_artifact"
    )


def load_artifact(path: Path) -> Any:
    """What `save_artifact` wrote there. Raises ValueError for a suffix nobody registered."""
    path = Path(path)
    for known in _types:
        if path.name.endswith(known.suffix):
            return known.load(path)
    suffixes = ", ".join(sorted(known.suffix for known in _types))
    raise ValueError(f"cannot load {path}: unknown suffix {path.suffix!r}, expected one of {suffixes}")


def _save_image(image: Image.Image, path: Path) -> None:
    if image.mode not in PNG_MODES:
        raise ValueError(f"{path.name}: PNG cannot hold a {image.mode} image without loss; convert it to RGB first")
    image.save(path, format="PNG")


def _load_image(path: Path) -> Image.Image:
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        return image.copy()


def _save_film(clip: Clip, path: Path) -> None:
    if clip.frames[0].mode not in SHEETS:
        raise ValueError(f"{path.name}: a film of {clip.frames[0].mode} frames is not stored; convert it to RGB first")
    about = PngImagePlugin.PngInfo()
    about.add_text(COUNT, str(len(clip)))
    sheet_of(clip.frames).save(path, format="PNG", pnginfo=about)


def _load_film(path: Path) -> Clip:
    return Clip(tuple(frames_of_sheet(_load_image(path))))


def sheet_of(frames: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Frames of one size and mode side by side, ROW in a row, `gap` white pixels between them."""
    width, height = (side + gap for side in frames[0].size)
    size = (width * min(ROW, len(frames)) - gap, height * -(-len(frames) // ROW) - gap)
    sheet = Image.new(frames[0].mode, size, "white")
    for place, frame in enumerate(frames):
        sheet.paste(frame, (place % ROW * width, place // ROW * height))
    return sheet


def frames_of_sheet(sheet: Image.Image) -> list[Image.Image]:
    """The frames of a film that is stored as one picture. Raises ValueError for another picture."""
    count = str(sheet.info.get(COUNT))
    if not (count.isdecimal() and 0 < int(count) <= sheet.width * sheet.height):
        raise ValueError(f"a picture without the number of its frames ({COUNT}) is no film")
    columns, rows = min(ROW, int(count)), -(-int(count) // ROW)
    width, height = sheet.width // columns, sheet.height // rows
    corners = [(place % ROW * width, place // ROW * height) for place in range(int(count))]
    return [sheet.crop((x, y, x + width, y + height)) for x, y in corners]


def _save_text(text: str, path: Path) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _load_text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogatepass")


def _save_array(array: np.ndarray, path: Path) -> None:
    np.save(path, array, allow_pickle=False)


def _load_array(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _save_solid(solid: Solid, path: Path) -> None:
    path.write_text(json.dumps(solid.record(), allow_nan=False), encoding="utf-8")


def _load_solid(path: Path) -> Solid:
    return Solid.of(json.loads(path.read_text(encoding="utf-8")))


register_artifact(Image.Image, ".png", _save_image, _load_image)
register_artifact(str, ".txt", _save_text, _load_text)
register_artifact(np.ndarray, ".npy", _save_array, _load_array)
register_artifact(Clip, FILM, _save_film, _load_film)
register_artifact(Solid, ".solid.json", _save_solid, _load_solid)  # vertices are rounded to a grid
