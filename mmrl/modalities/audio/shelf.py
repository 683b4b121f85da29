"""Sounds as the model hears them: decoded once, cut where they are too long, processed once, and kept for a while."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmrl.media import Excerpt, Heard
from mmrl.modalities.audio.families.base import Family
from mmrl.modalities.audio.sounds import sound_refs
from mmrl.modalities.kept import Kept
from mmrl.modalities.media.pictures import source_key
from mmrl.modalities.media.shown import Shelf, Shown
from mmrl.sounds import MAX_SECONDS, RATE, Sound, SoundError, load
from mmrl.types import Prompt

if TYPE_CHECKING:
    import numpy as np

CHUNKS = "chunks"


@dataclass(frozen=True)
class Length:
    """How many samples a sound has."""

    samples: int
    bytes: int = 200


@dataclass(frozen=True)
class Decoded:
    """A whole sound."""

    sound: Sound

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.sound.samples.nbytes


@dataclass(frozen=True)
class Waves:
    """What an excerpt sounds like. inputs: what the tower takes. image: its samples, for an engine's processor."""

    inputs: Mapping[str, Tensor]
    image: np.ndarray

    @property
    def bytes(self) -> int:
        """Memory that they take, but for the samples, which are the sound's."""
        return sum(t.numel() * t.element_size() for t in self.inputs.values())


class SoundShelf(Shelf[Length, Waves]):
    """Processed sounds by excerpt: the numbers of some, and the lengths of all that were met.

    family: the model's. channels, long: see ModelConfig.channels, long_sounds. limit: bytes of decoded sounds that are
    kept, and as many of processed ones. bound: seconds of a sound that is decoded at most.
    """

    def __init__(self, family: Family, channels: str | int, long: str, limit: int) -> None:
        super().__init__(limit)
        self.family, self.channels, self.long, self.bound = family, channels, long, MAX_SECONDS
        self._sounds: Kept[Decoded] = Kept(limit)
        self.decoded = 0  # sounds that were decoded so far

    def excerpts(self, prompt: Prompt) -> list[list[Excerpt]]:
        """What of each of a prompt's sounds is heard, one behind the other: all of it, in parts where it is too long.

        Raises SoundError for one that cannot be used, ValueError for more than the model hears.
        """
        parts = [self._parts(prompt, number) for number in range(len(sound_refs(prompt)))]
        most, count = self.family.most, sum(map(len, parts))
        if most is not None and count > most:
            raise ValueError(f"has {count} sounds (or parts of them), and {self.family.model_class} hears {most}")
        return parts

    def get(self, prompt: Prompt, view: Excerpt) -> Shown:
        """An excerpt of one of the prompt's sounds, planned from its length: no spectrogram is made, but for the first
        of all, by which processor and model are compared.

        Raises ValueError where there is no such sound, SoundError for one that cannot be used.
        """
        key = self._key(prompt, view.sound)
        end = self._length(prompt, view.sound, key) if view.end is None else view.end
        samples, family = end - view.start, self.family
        tokens = family.tokens(samples)
        if tokens < 1:
            told = f"sound {view.sound}: {samples / RATE:.4f} s of it are too short for a token"
            raise SoundError(told, prompt.id, "too_short")
        place = (key, view.start, end)
        wave = functools.partial(self._loaded, place, functools.partial(self._processed, prompt, view, key, end))
        if not self.processed:
            wave()
        media = Heard(view, samples / RATE, tokens)
        return Shown(place, family.expansion(tokens), family.audio_id, tokens, media, family, wave)

    def samples(self, prompt: Prompt, view: Excerpt) -> np.ndarray:
        """[n] float32 at 16 kHz: what an excerpt sounds like. Raises as `get`."""
        key = self._key(prompt, view.sound)
        return self._whole(prompt, view.sound, key).samples[view.start : view.end]

    def _parts(self, prompt: Prompt, number: int) -> list[Excerpt]:
        samples, longest = self._length(prompt, number, self._key(prompt, number)), self.family.longest
        if longest is None or samples <= longest:
            return [Excerpt(number)]
        if self.long != CHUNKS:
            raise SoundError(
                f"sound {number} lasts {samples / RATE:.1f} s, and the model hears {longest / RATE:g} s; cut it, or "
                f"set model.long_sounds: {CHUNKS}",
                prompt.id,
                "too_long",
            )
        count = -(-samples // longest)
        edges = [samples * part // count for part in range(count + 1)]
        return [Excerpt(number, start, end) for start, end in pairwise(edges)]

    def _processed(self, prompt: Prompt, view: Excerpt, key: Hashable, end: int) -> Waves:
        try:
            samples = self._whole(prompt, view.sound, key).samples[view.start : end]
        except SoundError as error:  # that was whole when it was planned
            raise SoundError(f"prompt {prompt.id!r}: {error}", prompt.id, error.reason) from None
        inputs = self.family.process(samples)
        features, tokens = self.family.feature_count(inputs), self.family.tokens(len(samples))
        if features != tokens:
            raise ValueError(
                f"a sound of {len(samples)} samples has {tokens} placeholders and {features} features: the processor "
                "and the model do not belong together"
            )
        return Waves(inputs, samples)

    def _length(self, prompt: Prompt, number: int, key: Hashable) -> int:
        return self._known(key, lambda: Length(len(self._whole(prompt, number, key).samples))).samples

    def _whole(self, prompt: Prompt, number: int, key: Hashable) -> Sound:
        found = self._sounds.get(key)
        if found is None:
            found = Decoded(self._decode(prompt, number))
            self.decoded += 1
            self._sounds.put(key, found)
        return found.sound

    def _decode(self, prompt: Prompt, number: int) -> Sound:
        ref = sound_refs(prompt)[number]
        try:
            return load(ref, root=prompt.root, channels=self.channels, max_seconds=self.bound)
        except SoundError as error:
            raise SoundError(str(error), prompt.id, error.reason) from None

    def _key(self, prompt: Prompt, number: int) -> Hashable:
        """Equal for references to the same sound."""
        refs = sound_refs(prompt)
        if not 0 <= number < len(refs):
            raise ValueError(f"prompt {prompt.id!r} has {len(refs)} sounds, sound {number} was asked for")
        ref = refs[number]
        if isinstance(ref, Sound):
            return ref.digest
        array, told = _array(ref)
        if array is None:
            return source_key(ref, prompt.root)
        return (self._lasting(array, lambda: _digest(array)), told)


def _array(ref: Any) -> tuple[Any, Any]:
    """(the array that a reference holds, what it tells beside); (None, ...) for one that names a sound."""
    if isinstance(ref, Mapping) and ref.get("array") is not None:
        return ref["array"], ref.get("sampling_rate")
    if isinstance(ref, tuple) and len(ref) == 2:
        return ref
    return (ref, None) if hasattr(ref, "__array__") else (None, None)


def _digest(array: Any) -> str:
    import numpy as np

    numbers = np.asarray(array)
    return hashlib.sha256(repr((numbers.dtype.str, numbers.shape)).encode() + numbers.tobytes()).hexdigest()
