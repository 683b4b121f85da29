"""A sound as policies hear it, what is known of one before it is decoded, and why one cannot be used."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mmrl.media import SOUND_RATE, MediaError

if TYPE_CHECKING:
    import numpy as np

RATE = SOUND_RATE
FRAME = 400  # numbers at 16 kHz of one frame of Whisper's features, which all families that hear are built on


class SoundError(MediaError):
    """A sound that cannot be used; the message names it and says why.

    reason: one of "missing", "outside", "empty", "one_sample", "too_short", "too_long", "corrupt", "cut_off", "video",
    "format", "not_sound", "not_finite", "rate", "channels", "failed".
    """


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound as policies hear it. samples: [n] float32, one channel at `rate`, which nobody may write to."""

    samples: np.ndarray
    rate: ClassVar[int] = RATE

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    @functools.cached_property
    def digest(self) -> str:
        """Equal for equal samples: what caches go by."""
        return hashlib.sha256(self.samples.tobytes()).hexdigest()[:32]


@dataclass(frozen=True)
class Head:
    """What is known of a sound before it is decoded. frames: numbers in each of its channels, at its own rate."""

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def samples(self) -> int:
        """About how many numbers `load` makes of it (soxr may round to one more or less)."""
        return round(self.frames * RATE / self.rate)
