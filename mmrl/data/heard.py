"""The sounds of records: which columns hold them, looked at before a run, bound to a folder, written beside a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.data.messages import marks_in
from mmrl.data.shown import listed
from mmrl.located import path_of
from mmrl.media import AUDIO
from mmrl.sounds import Sound, SoundError, load, measure, written

# Columns that hold a record's sounds, the first that is there counts.
COLUMNS = ("sounds", "audios", "audio", "audio_path", "sound")


def sounds(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"sounds"} as a list of references, {} for a record without sounds; the marks are counted.

    Without any mark, sounds stand in front of the text. Raises ValueError for what is no sound.
    """
    marks = marks_in(record, AUDIO)
    column = column_of(record)
    if column is None:
        return {}  # without its sound, a mark is words
    given = record[column]
    found = [_reference(sound, f"{n} of `{column}`") for n, sound in enumerate([given] if _one(given) else given)]
    if marks and marks != len(found):
        raise ValueError(f"{AUDIO} stands {marks} times in the text, and there are {len(found)} sounds")
    return {"sounds": found}


def column_of(record: Mapping[str, Any]) -> str | None:
    """Which of COLUMNS holds the record's sounds; None: it has none."""
    return next((column for column in COLUMNS if record.get(column) is not None and not _nothing(record[column])), None)


def unheard(record: Mapping[str, Any]) -> set[str]:
    """Columns of sounds beside the one that is heard, which hold others."""
    column = column_of(record)
    if column is None:
        return set()
    heard = listed(record[column]) if not _one(record[column]) else [record[column]]
    named = {one.get("path") if isinstance(one, Mapping) else one for one in heard if isinstance(one, str | Mapping)}
    beside = {other: record.get(other) for other in COLUMNS if other != column}
    return {
        other
        for other, value in beside.items()
        if value is not None and not _nothing(value) and not (isinstance(value, str) and value in named)
    }


def check_sounds(record: Mapping[str, Any], root: str | None, max_seconds: float) -> None:
    """Look at a record's sounds, so that a run does not end at one that is missing, too long or none.

    Nothing is decoded, and functions are not called. Raises SoundError, a ValueError, for the first that cannot be
    used.
    """
    for ref in record.get("sounds") or ():
        try:
            measure(ref, root=root, max_seconds=max_seconds)
        except ImportError as error:
            raise ValueError(str(error)) from None


def decode_sounds(record: Mapping[str, Any], root: str | None, max_seconds: float) -> None:
    """Load all of a record's sounds, also what a head does not tell of. Raises SoundError for the first that cannot be
    used."""
    for ref in record.get("sounds") or ():
        load(ref, root=root, max_seconds=max_seconds)


def bound_sounds(record: Mapping[str, Any], root: str | None) -> dict[str, Any]:
    """The record with each name in `sounds` as the Path that it is, so that it stands without its folder."""
    if not record.get("sounds"):
        return dict(record)
    return {**record, "sounds": [_bound(ref, root) for ref in record["sounds"]]}


def stored_sounds(record: Mapping[str, Any], root: str | None, folder: Path, max_seconds: float) -> dict[str, Any]:
    """The record with its sounds as WAV files `sounds/...` below `folder`, all their channels at their own rate."""
    if not record.get("sounds"):
        return dict(record)
    return {**record, "sounds": [_stored(ref, root, folder, max_seconds) for ref in record["sounds"]]}


def _bound(ref: Any, root: str | None) -> Any:
    if isinstance(ref, Mapping) and ref.get("bytes") is None and isinstance(ref.get("path"), str):
        ref = ref["path"]
    return path_of(ref, root, "sound", SoundError) if isinstance(ref, str) else ref


def _stored(ref: Any, root: str | None, folder: Path, max_seconds: float) -> str:
    data = written(ref, root=root, max_seconds=max_seconds)
    path = folder / "sounds" / f"{hashlib.sha256(data).hexdigest()[:24]}.wav"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    return f"sounds/{path.name}"


def _one(value: Any) -> bool:
    """Whether a column holds one sound, not a list of them: also (array, rate)."""
    return not isinstance(value, list) and not (isinstance(value, tuple) and not _with_rate(value))


def _with_rate(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and isinstance(value[1], int) and not isinstance(value[0], str)


def _nothing(value: Any) -> bool:
    return isinstance(value, list | tuple | str) and len(value) == 0


def _reference(sound: Any, name: str) -> Any:
    """What mmrl.sounds opens, as it is. name: of the sound, for messages."""
    if isinstance(sound, Mapping) and sound.get("bytes") is None and sound.get("array") is None:
        sound = sound.get("path") or sound.get("url")
    known = isinstance(sound, str | bytes | bytearray | Path | Mapping | Sound)
    held = callable(sound) or hasattr(sound, "get_all_samples") or isinstance(sound, tuple)
    if (known and sound) or held or isinstance(sound, Sound):
        return sound
    raise ValueError(f"sound {name}: expected a file name or a sound, got {type(sound).__name__}")
