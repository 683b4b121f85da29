"""The sounds of records: which columns hold them, looked at before a run, bound to a folder, written beside a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.data.messages import are_messages, is_sound, marks_as, marks_in
from mmrl.located import path_of
from mmrl.media import AUDIO, SOUND_COLUMNS, own_sounds, sound_column
from mmrl.sounds import Sound, SoundError, load, measure, written

# What the data of Audio Flamingo has in place of AUDIO.
_OTHER = "<sound>"
_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff")
SAID = ("id", "prompt", "answer", "completion", "chosen", "rejected")  # where the name of a file is a text
_BEGINS = (b"RIFF", b"fLaC", b"OggS", b"ID3")


def sounds(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"sounds"} as a list of references, {} for a record without sounds; the marks are counted. Where all are written
    <sound>, what the policy is asked comes too, with our own.

    Without any mark, sounds stand in front of the text. Raises ValueError for what is no sound.
    """
    marks = marks_in(record, AUDIO)
    column = sound_column(record)
    if column is None:
        return {}  # without its sound, a mark is words
    found = [_reference(sound, f"{n} of `{column}`") for n, sound in enumerate(own_sounds(record))]
    others = 0 if marks else marks_in(record, _OTHER)
    if (marks or others) and marks + others != len(found):
        mark = AUDIO if marks else _OTHER
        raise ValueError(f"{mark} stands {marks + others} times in the text, and there are {len(found)} sounds")
    return (marks_as(record, _OTHER, AUDIO) if others else {}) | {"sounds": found}


def unheard(record: Mapping[str, Any]) -> set[str]:
    """Columns that hold sounds beside the one that is heard, or under another name where none is."""
    column = sound_column(record)
    if column is None:
        messages = [value for value in record.values() if are_messages(value)]
        contents = [m["content"] for told in messages for m in told if isinstance(m.get("content"), list)]
        if any(is_sound(part) for content in contents for part in content):
            return set()
        return {name for name, value in record.items() if name not in SAID and _like_a_sound(value)}
    heard = own_sounds(record)
    named = {one.get("path") if isinstance(one, Mapping) else one for one in heard if isinstance(one, str | Mapping)}
    beside = {other: record.get(other) for other in SOUND_COLUMNS if other != column}
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


def _like_a_sound(value: Any) -> bool:
    """Whether a column of any name holds what looks like a sound."""
    if isinstance(value, Mapping):
        data, name = value.get("bytes"), value.get("path")
        if isinstance(data, bytes):
            return data.startswith(_BEGINS) or (isinstance(name, str) and _like_a_sound(name))
        return value.get("array") is not None and "sampling_rate" in value
    return isinstance(value, str) and named_like_a_sound(value) and len(value.split()) == 1


def named_like_a_sound(text: str) -> bool:
    """Whether a text ends as the name of a sound's file does."""
    return text.lower().endswith(_ENDINGS)


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
    got = "an empty one" if isinstance(sound, str | bytes | bytearray) else type(sound).__name__
    raise ValueError(f"sound {name}: expected a file name or a sound, got {got}")
