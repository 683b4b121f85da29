"""Opening sounds that records name: files below a folder, sounds that a table holds, arrays, functions that make one.

Whatever a sound was, it comes out as one channel of float32 at 16 kHz, made once, so that each engine hears the same.
"""

from mmrl.sounds.load import MAX_SECONDS, cut, load, measure, written
from mmrl.sounds.nouns import FRAME, RATE, Head, Sound, SoundError

__all__ = ["FRAME", "MAX_SECONDS", "RATE", "Head", "Sound", "SoundError", "cut", "load", "measure", "written"]
