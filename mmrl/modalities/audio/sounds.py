"""The sounds of a prompt. Opening one, whatever it is, is `mmrl.sounds`."""

from __future__ import annotations

from typing import Any

from mmrl.media import own_sounds
from mmrl.types import Prompt


def sound_refs(prompt: Prompt) -> list[Any]:
    """A prompt's sounds as its record names them, in the order of its `<audio>` marks; what mmrl.sounds.load opens."""
    return own_sounds(prompt.record)
