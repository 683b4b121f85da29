"""A mark of what files hold: another one where they hold something else, the same one wherever they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path

_WHOLE = 16 << 20  # bytes of a file that is read whole
_PIECES, _PIECE = 4096, 4096  # how many pieces of a larger one are read, and their bytes: training changes all weights
_BESIDE = (".json", ".jinja", ".txt", ".model", ".yaml")  # what a model's folder holds beside weights


def mark_of(path: Path) -> str:
    """Of a file; or of a folder: its weights (.safetensors, at any depth) and the small files beside them."""
    digest = hashlib.sha256()
    for file in _files(path):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix() if file != path else ''} {size}\n".encode())
        with file.open("rb") as opened:
            if size <= _WHOLE:
                digest.update(opened.read())
                continue
            for place in range(_PIECES):
                opened.seek((size - _PIECE) * place // (_PIECES - 1))
                digest.update(opened.read(_PIECE))
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    weights = [file for file in path.rglob("*.safetensors") if file.is_file()]
    beside = [file for folder in {file.parent for file in weights} for file in folder.iterdir()]
    found = {*weights, *(file for file in beside if file.suffix in _BESIDE and file.is_file())}
    found |= set(path.glob("*.yaml"))  # of a run
    return sorted(found)
