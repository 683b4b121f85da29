"""Where a sound comes from: a file, bytes, an array, what a table holds. Its head, and its numbers as they are."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrl.located import cut_short, file_at, path_of
from mmrl.sounds.files import begins, flaw_of
from mmrl.sounds.nouns import Head, SoundError

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1 << 20


def made_of(source: Any) -> Any:
    """What a function makes, or the source itself."""
    if not callable(source):
        return source
    try:
        made = source()
    except SoundError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise SoundError(f"sound: {name_of(source)} failed: {told}", reason="failed") from error
    if callable(made):
        raise SoundError(f"sound: {name_of(source)} returned a function, expected a sound", reason="not_sound")
    return made


@contextmanager
def opened(source: Any, root: Any, rate: int | None, name: str) -> Iterator[tuple[Head, Iterator[np.ndarray]]]:
    """(its head, its numbers as blocks of [n, channels] float32)."""
    if isinstance(source, Mapping) and source.get("array") is None:
        held = source.get("bytes")
        source = source.get("path") if held is None else held
    if isinstance(source, bytes | bytearray | memoryview):
        with _sound_file(io.BytesIO(source), name) as found:
            yield found
    elif isinstance(source, str | Path):
        with _file(source, root, name).open("rb", buffering=0) as file, _sound_file(file, name) as found:
            yield found
    else:
        array, rate = _array(source, rate, name)
        yield Head(len(array), rate, array.shape[1]), iter((array,))


def _file(source: str | Path, root: Any, name: str) -> Path:
    if isinstance(source, Path) and root is None:
        return file_at(source, f"sound {name}", _Missing)
    if not str(source):
        raise SoundError("sound: its file name is empty", reason="missing")
    return file_at(path_of(str(source), root, "sound", _Outside), f"sound {name}", _Missing)


class _Missing(SoundError):
    def __init__(self, message: str, prompt: str | None = None, reason: str = "missing") -> None:
        super().__init__(message, prompt, reason)


class _Outside(SoundError):
    def __init__(self, message: str, prompt: str | None = None, reason: str = "outside") -> None:
        super().__init__(message, prompt, reason)


@contextmanager
def _sound_file(file: Any, name: str) -> Iterator[tuple[Head, Iterator[np.ndarray]]]:
    soundfile = library("soundfile", name)
    if flaw := flaw_of(file):
        raise SoundError(f"sound {name}: {flaw.told}", reason=flaw.reason)
    real = hasattr(file, "fileno") and not isinstance(file, io.BytesIO)
    try:  # by its number: of a name, soundfile believes the ending
        held = soundfile.SoundFile(file.fileno() if real else file, closefd=False)
    except soundfile.LibsndfileError as error:
        said = error.error_string
        if "incomplete" in said:
            raise SoundError(f"sound {name}: its head names no rate", reason="rate") from None
        if "not recognised" not in said:
            raise SoundError(f"sound {name}: its head is broken: {said}", reason="corrupt") from None
        raise SoundError(
            f"sound {name}: it is no sound that is read (WAV, FLAC, OGG, MP3 ...); it begins with {begins(file)}",
            reason="not_sound",
        ) from None
    with held:
        yield Head(held.frames, held.samplerate, held.channels), _blocks(held)


def _blocks(held: Any) -> Iterator[np.ndarray]:
    """Not soundfile's own `blocks`, which fills up what a broken file lacks with whatever stood in memory."""
    while len(block := held.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block


def _array(source: Any, rate: int | None, name: str) -> tuple[np.ndarray, int]:
    """([n, channels] float32, rate) of an array, and what holds one."""
    import numpy as np

    if isinstance(source, Mapping):
        source, rate = source["array"], source.get("sampling_rate", rate)
    elif isinstance(source, tuple) and len(source) == 2:
        source, rate = source
    elif hasattr(source, "get_all_samples"):  # a decoder of the datasets library
        decoded = source.get_all_samples()
        source, rate = decoded.data, decoded.sample_rate
    try:
        array = np.asarray(source)
    except Exception as error:  # of whatever is asked to become an array
        raise SoundError(f"sound {name}: {type(source).__name__} is no array: {error}", reason="not_sound") from None
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2):
        told = type(source).__name__ if array.dtype.kind in "OUS" else f"an array {array.dtype} of shape {array.shape}"
        raise SoundError(f"sound {name}: expected a file name or a sound, got {told}", reason="not_sound")
    if rate is None:
        raise SoundError(
            f'sound {name}: an array, and nothing says its rate; give {{"array", "sampling_rate"}}', reason="rate"
        )
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise SoundError(f"sound {name}: its rate is {rate!r:.40}, expected a whole number", reason="rate")
    array = array[:, None] if array.ndim == 1 else array.T if array.shape[0] < array.shape[1] else array
    if array.dtype.kind == "f":
        return array.astype(np.float32), int(rate)
    bits = np.iinfo(array.dtype).bits
    if bits > 32:  # what a list of whole numbers becomes, whatever they were
        raise SoundError(
            f"sound {name}: whole numbers of {bits} bits do not say which of them is full scale; give floats in [-1, "
            "1], or an array of int16 or int32",
            reason="not_sound",
        )
    middle = 2.0 ** (bits - 1) if array.dtype.kind == "u" else 0.0
    return ((array.astype(np.float64) - middle) / 2.0 ** (bits - 1)).astype(np.float32), int(rate)


def library(module: str, name: str) -> Any:
    """Raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f'sound {name}: needs the package {module!r}: pip install "mmrl[audio]"') from None


def name_of(source: Any) -> str:
    if isinstance(source, str | Path):
        return cut_short(str(source))
    if isinstance(source, Mapping):
        return cut_short(source["path"]) if isinstance(source.get("path"), str) else "of the table"
    if callable(source):
        return f"function {cut_short(repr(source))}"
    return "of the record"
