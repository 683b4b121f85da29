"""What the first bytes of a file tell of a sound: that it is none, that it is a film, that its end is missing."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

_HEAD = 64
_STREAMED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # lengths that stand where the length was not known
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"F4A ")


@dataclass(frozen=True)
class Flaw:
    """reason: in one word; told: in words that follow the file's name."""

    reason: str
    told: str


def flaw_of(file: Any) -> Flaw | None:
    """Why a file is no sound that can be read, as far as its first bytes and its length tell; None: nothing is wrong.

    libsndfile makes of the first half of a WAV a shorter sound, and says nothing. Leaves the file at its begin.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if size == 0:
        return Flaw("empty", "it is an empty file")
    if film := _film(head):
        return Flaw("video", f"it is a film ({film}); write its sound to a file of its own (WAV, FLAC, OGG or MP3)")
    if head[4:8] == b"ftyp":
        return Flaw("format", "it is AAC in MPEG-4, which is not read; convert it to WAV, FLAC, OGG or MP3")
    return _cut_off_wav(file, size) if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE" else None


def begins(file: Any) -> str:
    """The first bytes, as a message shows them."""
    file.seek(0)
    return repr(bytes(file.read(16)))[1:]


def _film(head: bytes) -> str:
    """What kind of film begins like this; "" for none."""
    if head[4:8] == b"ftyp":
        return "" if head[8:12] in _SOUND_BRANDS else "MPEG-4 or QuickTime"
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return "QuickTime"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "Matroska or WebM"
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "AVI"
    if head[:4] in (b"\0\0\1\xba", b"\0\0\1\xb3"):
        return "MPEG"
    if head[:3] == b"FLV":
        return "Flash"
    if head[:4] == b"OggS" and head[28:35] == b"\x80theora":
        return "Theora"
    return ""


def _cut_off_wav(file: Any, size: int) -> Flaw | None:
    """A flaw where the piece `data` of a WAV is longer than the file."""
    order = ">" if file.read(4) == b"RIFX" else "<"
    place = 12
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == b"data":
            file.seek(0)
            held = size - place - 8
            if length in _STREAMED or length <= held:
                return None
            return Flaw("cut_off", f"it is cut off: {held} bytes of its samples are there, and its head says {length}")
        place += 8 + length + length % 2
    file.seek(0)
    return Flaw("corrupt", "its head is broken: it names no samples")
