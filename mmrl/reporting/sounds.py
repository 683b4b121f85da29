"""Sounds that a policy heard: stored as small files, shown as a player with a spectrogram inside of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmrl.reporting.folder import RunFolder, Unreadable
from mmrl.sounds import RATE, SoundError, load

LOSSLESS = 10.0  # seconds up to which a sound is stored as it was heard, bit for bit of 16
TYPES = {".flac": "audio/flac", ".ogg": "audio/ogg"}
MOST_SOUND_BYTES = 16_000_000
MOST_SECONDS = 3600.0
WINDOW, WIDTH, HEIGHT = 512, 360, 96  # samples of a spectrum; pixels of a spectrogram
RANGE = 80.0  # decibels between its loudest and its darkest
_BLOCK = 1 << 16  # samples that the encoder of OGG is given at once: of more it has crashed
# From silence to the loudest: black, violet, red, orange, pale yellow.
_COLOURS = np.array([(4, 3, 20), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 200)], np.float64)


@dataclass(frozen=True)
class Player:
    """A sound of the page. uri, picture: data URIs of it and of its spectrogram, or "" with the reason in `note`."""

    caption: str
    uri: str = ""
    picture: str = ""
    note: str = ""


def save_sound(samples: np.ndarray, folder: Path, stem: str) -> str:
    """Write [n] float32 at 16 kHz as folder/stem.flac, or .ogg where it is long; returns the file's name."""
    data, suffix = encoded(samples)
    (folder / f"{stem}{suffix}").write_bytes(data)
    return f"{stem}{suffix}"


def encoded(samples: np.ndarray) -> tuple[bytes, str]:
    """(the bytes of a file, its suffix) of [n] float32 at 16 kHz: FLAC, or OGG where it is long."""
    import soundfile

    short = len(samples) <= LOSSLESS * RATE
    kind, subtype, suffix = ("FLAC", "PCM_16", ".flac") if short else ("OGG", "VORBIS", ".ogg")
    clipped, held = np.clip(samples, -1.0, 1.0), io.BytesIO()
    with soundfile.SoundFile(held, "w", RATE, 1, subtype, format=kind) as file:
        for start in range(0, len(clipped), _BLOCK):
            file.write(clipped[start : start + _BLOCK])
    return held.getvalue(), suffix


def player(folder: RunFolder, name: str, caption: str, charged: Callable[[str, str], tuple[str, str]]) -> Player:
    """The player of a stored sound; charged: (data URI, name) -> the same, or ("", why there is no room for it)."""
    try:
        kind = TYPES.get(Path(name).suffix)
        if kind is None:
            raise Unreadable(f"{name} is no sound that is played")
        data = folder.bytes(name, MOST_SOUND_BYTES)
        samples = load(data, root=None, max_seconds=MOST_SECONDS, shortest=2).samples
    except (Unreadable, SoundError, ImportError) as error:
        return Player(caption, note=str(error).replace("sound of the record", name))
    return player_of(data, kind, samples, name, caption, charged)


def player_of(
    data: bytes,
    kind: str,
    samples: np.ndarray,
    name: str,
    caption: str,
    charged: Callable[[str, str], tuple[str, str]],
) -> Player:
    """The player of a sound: the bytes of a file of a type of TYPES, and the samples for its spectrogram."""
    uri, note = charged(f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}", name)
    picture = charged(_png(spectrogram(samples)), name)[0] if uri else ""
    return Player(caption, uri, picture, note)


def spectrogram(samples: np.ndarray) -> Image.Image:
    """WIDTH x HEIGHT pixels: time to the right, frequency upwards from 0 to 8 kHz, loudness from black to pale yellow.

    Each column is the loudest of the spectra that it stands for. Silence is black.
    """
    padded = np.pad(samples.astype(np.float64), (0, max(0, WINDOW - len(samples))))
    hop = max(1, (len(padded) - WINDOW) // (4 * WIDTH))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)) ** 2
    rows = _pooled(_pooled(power, WIDTH).T, HEIGHT)  # [HEIGHT, WIDTH], low frequencies first
    loudest = rows.max()
    decibels = 10 * np.log10(np.maximum(rows, 1e-12) / max(loudest, 1e-4))
    shade = np.clip(1 + decibels / RANGE, 0, 1) * (len(_COLOURS) - 1)
    low = np.minimum(shade.astype(int), len(_COLOURS) - 2)
    part = (shade - low)[..., None]
    return Image.fromarray(((1 - part) * _COLOURS[low] + part * _COLOURS[low + 1]).astype(np.uint8)[::-1])


def _pooled(values: np.ndarray, count: int) -> np.ndarray:
    """[n, ...] -> [count, ...]: the largest of each part; where there are fewer, each stands for several."""
    n = len(values)
    edges = [(n * k // count, n * (k + 1) // count) for k in range(count)]
    return np.stack([values[first : max(first + 1, end)].max(0) for first, end in edges])


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.quantize(64).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def caption_of(stored: dict[str, Any], place: int, sign: str) -> str:
    """What stands below a player: its number in the text, how long it is, what it cost."""
    seconds, start = stored["seconds"], stored["start"] / RATE
    part = f" from {start:.1f} s" if start else ""
    return f"{sign}{place + 1} {seconds:.1f} s{part} · {stored['tokens']} tokens"
