"""The sounds of prompts as an adapter hears them. Opening one, whatever it is, is `mmrl.sounds`."""

from __future__ import annotations

from typing import Any

from mmrl.sounds import FRAME, MAX_SECONDS, RATE, Head, Sound, SoundError, cut, load, measure
from mmrl.types import Prompt

__all__ = [
    "FRAME",
    "MAX_SECONDS",
    "RATE",
    "Head",
    "Sound",
    "SoundError",
    "cut",
    "heads_of",
    "load",
    "measure",
    "sound_refs",
    "sounds_of",
]


def sound_refs(prompt: Prompt) -> list[Any]:
    """A prompt's sounds as its record names them, in the order of its `<audio>` marks."""
    return list(prompt.record.get("sounds") or ())


def sounds_of(prompt: Prompt, **how: Any) -> list[Sound]:
    """Them loaded. how: keywords of `load`, but for `root`. Raises SoundError that names the prompt."""
    return [_told(load, prompt, ref, how) for ref in sound_refs(prompt)]


def heads_of(prompt: Prompt, **how: Any) -> list[Head | None]:
    """What is known of them before they are decoded, see `measure`. Raises SoundError that names the prompt."""
    return [_told(measure, prompt, ref, how) for ref in sound_refs(prompt)]


def _told(read: Any, prompt: Prompt, ref: Any, how: dict[str, Any]) -> Any:
    try:
        return read(ref, root=prompt.root, **how)
    except SoundError as error:
        raise SoundError(f"prompt {prompt.id!r}: {error}", prompt.id, error.reason) from None
