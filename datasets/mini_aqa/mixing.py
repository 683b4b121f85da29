"""Sounds of two seconds, mixed of clips that may be played faster, coloured and overlaid."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmrl.sounds import RATE, load

HERE = Path(__file__).resolve().parent
SECONDS = 2.0  # of a whole sound
SEMITONES, DECIBELS = 4, 9  # that a varied clip differs at most
KNOTS = (60.0, 250.0, 1000.0, 3000.0, 8000.0)  # Hz, between which a colour is even


class Part(NamedTuple):
    """One clip in a sound.

    file: of the table. at: where it begins, in seconds. most: how long it is at most, in seconds. loud: its amplitude.
    speed: how many times as fast (and as high) it is played. colour: gain in dB at each of KNOTS, or nothing.
    """

    file: str
    at: float
    most: float
    loud: float
    speed: float = 1.0
    colour: tuple[float, ...] = ()


def mixed(parts: Sequence[Part], noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, int]:
    """([n] float32, rate): clips laid over one another, each where it begins, in a sound of SECONDS.

    noise: amplitude of white noise beneath them, drawn from `seed`.
    """
    whole = np.zeros(int(SECONDS * RATE), np.float32)
    if noise:
        whole += np.random.default_rng(seed).normal(0, noise, len(whole)).astype(np.float32)
    for part in map(Part._make, parts):
        at = int(part.at * RATE)
        clip = _played(part.file, part.speed, part.colour)[: min(int(part.most * RATE), len(whole) - at)]
        clip = clip * np.float32(part.loud)
        fade = min(len(clip), RATE // 100)
        whole[at : at + len(clip)] += clip
        whole[at + len(clip) - fade : at + len(clip)] -= clip[-fade:] * np.linspace(0, 1, fade, dtype=np.float32)
    return whole / np.float32(max(1.0, np.abs(whole).max())), RATE


def varied(row: dict[str, Any], rng: random.Random, vary: float) -> dict[str, Any]:
    """A row of the table whose clip is played higher and faster or lower and slower, by up to vary * SEMITONES, and
    whose tones are louder or softer by up to vary * DECIBELS at each of KNOTS. It is still what it is called.
    """
    if not vary:
        return row
    speed = round(2 ** (rng.uniform(-vary, vary) * SEMITONES / 12), 3)
    colour = tuple(round(rng.uniform(-vary, vary) * DECIBELS, 1) for _ in KNOTS)
    return {**row, "seconds": row["seconds"] / speed, "speed": speed, "colour": colour}


def part(row: dict[str, Any], at: float, most: float, loud: float = 1.0) -> Part:
    """A row of the table, varied or not, as a part of a sound."""
    return Part(row["file"], at, most, loud, row.get("speed", 1.0), row.get("colour", ()))


def sound(parts: Sequence[Part], rng: random.Random, vary: float) -> partial[tuple[np.ndarray, int]]:
    """What mixes parts; varied, softer as a whole, in noise."""
    if not vary:
        return partial(mixed, tuple(parts))
    whole = 1 - vary * rng.uniform(0, 0.6)
    softer = tuple(part._replace(loud=round(part.loud * whole, 3)) for part in parts)
    return partial(mixed, softer, vary * round(10 ** rng.uniform(-4, -2), 5), rng.randrange(2**31))


@lru_cache(maxsize=1)
def clips() -> list[dict[str, Any]]:
    """The table of clips: file, kind, label, split, family, author, licence, seconds."""
    return json.loads((HERE / "clips.json").read_text(encoding="utf-8"))


def _played(file: str, speed: float, colour: tuple[float, ...]) -> np.ndarray:
    """A clip at another speed, and through a filter that leaves its peak as high as it was."""
    clip = _clip(file)
    if speed != 1.0:
        clip = np.interp(np.arange(0, len(clip) - 1, speed), np.arange(len(clip)), clip).astype(np.float32)
    if not colour:
        return clip
    tones = np.fft.rfft(clip)
    octaves = np.log2(np.fft.rfftfreq(len(clip), 1 / RATE).clip(KNOTS[0]))
    gains = 10 ** (np.interp(octaves, np.log2(KNOTS), colour) / 20)
    heard = np.fft.irfft(tones * gains, len(clip))
    return (heard * (np.abs(clip).max() / np.abs(heard).max())).astype(np.float32)


@lru_cache(maxsize=256)
def _clip(file: str) -> np.ndarray:
    return load(HERE / file, root=None).samples
