"""A sound as one channel of float32 at 16 kHz, and every reason for which one is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrl.located import why
from mmrl.sounds.nouns import FRAME, RATE, Head, Sound, SoundError
from mmrl.sounds.opening import library, made_of, name_of, opened

if TYPE_CHECKING:
    import numpy as np

MAX_SECONDS = 600.0
RATES = (2_000, 768_000)  # a second, of what is read
MAX_CHANNELS = 64
_LOUDEST = 8.0  # of floats, whose full scale is 1


def load(
    source: Any,
    *,
    root: str | Path | None,
    channels: str | int = "mean",
    rate: int | None = None,
    max_seconds: float = MAX_SECONDS,
    shortest: int = FRAME,
) -> Sound:
    """The whole sound, nothing cut.

    source: a file name below `root`, or `share://...`; a Path; the bytes of a file; an array [n], or of [n, channels]
    or [channels, n] (the longer side is time), of floats in [-1, 1] or of whole numbers of at most 32 bits, whose
    `rate` is told;
    (array, rate); a table's {"bytes", "path"}, {"array", "sampling_rate"} or decoder; a Sound; or a function without
    arguments that returns one of these.
    channels: mean of all, the left one, or the number of one, from 0. max_seconds: of a sound that is decoded at most.
    shortest: numbers at 16 kHz that it needs: those of one frame of the model's encoder.
    Raises SoundError for what is no sound, or not usable; ValueError for another word in `channels`.
    """
    _check_policy(channels)
    source, name = made_of(source), name_of(source)
    if isinstance(source, Sound):
        _check_length(len(source.samples), RATE, name, max_seconds, shortest)
        return source
    with opened(source, root, rate, name) as (head, blocks):
        _check_head(head, name, max_seconds, shortest)
        _check_channel(head, channels, name)
        mono = _mono(blocks, head, channels, name)
    return Sound(_resampled(mono, head.rate))


def measure(
    source: Any,
    *,
    root: str | Path | None,
    channels: str | int = "mean",
    rate: int | None = None,
    max_seconds: float = MAX_SECONDS,
    shortest: int = FRAME,
) -> Head | None:
    """What a sound's head tells, which is not decoded; None for a function, which is not called.

    Arguments as for `load`. Raises SoundError as it does, but for samples that turn out broken.
    """
    _check_policy(channels)
    if callable(source):
        return None
    name = name_of(source)
    if isinstance(source, Sound):
        _check_length(len(source.samples), RATE, name, max_seconds, shortest)
        return Head(len(source.samples), RATE, 1)
    with opened(source, root, rate, name) as (head, _):
        _check_head(head, name, max_seconds, shortest)
        _check_channel(head, channels, name)
        return head


def written(source: Any, *, root: str | Path | None, max_seconds: float = MAX_SECONDS) -> bytes:
    """A WAV of floats of the whole sound, all its channels at its own rate, so that it may be loaded as it would have
    been. Raises SoundError as `load` does."""
    import numpy as np

    source, name = made_of(source), name_of(source)
    if isinstance(source, Sound):
        source = (source.samples, RATE)
    with opened(source, root, None, name) as (head, blocks):
        _check_head(head, name, max_seconds, FRAME)
        held = io.BytesIO()
        library("soundfile", name).write(held, np.concatenate(list(blocks)), head.rate, "FLOAT", format="WAV")
    return held.getvalue()


def cut(sound: Sound, seconds: float) -> list[Sound]:
    """The sound in as few parts of at most `seconds` as there can be, one behind the other, alike long but for one
    sample. Raises ValueError for parts of less than a frame."""
    most = int(seconds * RATE)
    if most < 2 * FRAME:
        raise ValueError(f"parts of {seconds} s are shorter than two frames of {FRAME / RATE} s")
    n = len(sound.samples)
    count = -(-n // most)
    edges = [n * part // count for part in range(count + 1)]
    return [sound] if count == 1 else [Sound(sound.samples[a:b]) for a, b in pairwise(edges)]


def _check_head(head: Head, name: str, max_seconds: float, shortest: int) -> None:
    if not RATES[0] <= head.rate <= RATES[1]:
        raise SoundError(f"sound {name}: a rate of {head.rate} Hz; expected {RATES[0]} to {RATES[1]}", reason="rate")
    if head.channels > MAX_CHANNELS:
        raise SoundError(f"sound {name}: {head.channels} channels, at most {MAX_CHANNELS} are read", reason="channels")
    _check_length(head.frames, head.rate, name, max_seconds, shortest)


def _check_length(frames: int, rate: int, name: str, max_seconds: float, shortest: int) -> None:
    if frames == 0:
        raise SoundError(f"sound {name}: it is empty: it has no samples", reason="empty")
    if frames == 1:
        raise SoundError(f"sound {name}: it has one sample", reason="one_sample")
    if frames * RATE < shortest * rate:
        raise SoundError(
            f"sound {name}: it lasts {frames / rate:.4f} s, and one frame of the encoder {shortest / RATE:.4f} s",
            reason="too_short",
        )
    if frames > max_seconds * rate:
        raise SoundError(
            f"sound {name}: it lasts {frames / rate:.0f} s, over data.max_seconds={max_seconds:g}; cut it, or raise "
            "the bound",
            reason="too_long",
        )


def _check_policy(channels: str | int) -> None:
    number = isinstance(channels, int) and not isinstance(channels, bool) and channels >= 0
    if not number and channels not in ("mean", "left"):
        raise ValueError(f"channels is {channels!r}: expected mean, left, or the number of a channel, from 0")


def _check_channel(head: Head, channels: str | int, name: str) -> None:
    if isinstance(channels, int) and channels >= head.channels:
        raise SoundError(
            f"sound {name}: channel {channels} is asked for, and it has {head.channels}, counted from 0",
            reason="channels",
        )


def _mono(blocks: Iterator[np.ndarray], head: Head, channels: str | int, name: str) -> np.ndarray:
    """[n] float32. Raises SoundError for fewer samples than the head has, and for what is no wave."""
    import numpy as np

    number = {"mean": None, "left": 0}.get(channels) if isinstance(channels, str) else channels
    try:
        parts = [block.mean(axis=1) if number is None else block[:, number] for block in blocks]
    except Exception as error:  # of the library: what a broken file leads its decoders to
        raise SoundError(f"sound {name}: cannot be decoded: {why(error)}", reason="corrupt") from None
    mono = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if len(mono) < head.frames:
        raise SoundError(f"sound {name}: it ends after {len(mono)} of {head.frames} samples", reason="cut_off")
    loudest = float(np.abs(mono).max())
    if not np.isfinite(loudest):
        raise SoundError(f"sound {name}: it has samples that are NaN or infinite", reason="not_finite")
    if loudest > _LOUDEST:
        raise SoundError(
            f"sound {name}: its samples reach {loudest:.0f}; floats are in [-1, 1], so divide them by their full scale",
            reason="not_sound",
        )
    return mono


def _resampled(mono: np.ndarray, rate: int) -> np.ndarray:
    import numpy as np

    if rate != RATE:
        mono = library("soxr", "of another rate").resample(mono, rate, RATE)
    made = np.ascontiguousarray(mono, dtype=np.float32)
    made = made.copy() if made.base is not None else made
    made.setflags(write=False)
    return made
