"""OCR: does the picture carry the words that the prompt quotes?"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein
from rapidocr import RapidOCR

from mmrl.types import Prompt, Sample, Score

_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”')


def quoted(samples: list[Sample]) -> list[Score]:
    """1 - d / len(target) in [0, 1] for the first double-quoted string of the prompt, as in Flow-GRPO.

    Target and text are compared in lower case and without spaces; d is the edit distance, at most
    len(target), and 0 when the target is part of the text. A picture in which no text is found scores 0, as
    nothing was written; an engine that fails raises, so the scores become invalid. A prompt without quotes is
    not applicable.
    """
    return [_score(sample) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why `quoted` cannot score this prompt, or None; to be asked before training."""
    match = _QUOTED.search(prompt.text)
    if match is None:
        return f'prompt {prompt.id!r} has no "quoted" text for the picture to carry: {prompt.text!r}'
    if not _normal(match.group(1) or match.group(2) or ""):
        return f"prompt {prompt.id!r} quotes nothing: {prompt.text!r}"
    return None


def read(image: Image.Image) -> str:
    """The text in a picture, its lines joined by spaces in the engine's order; "" where there is none."""
    # OpenCV's order of channels is what the engine expects of an array.
    result = _engine()(np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1]))
    return " ".join(result.txts or ())


def _score(sample: Sample) -> Score:
    reason, match = check_prompt(sample.prompt), _QUOTED.search(sample.prompt.text)
    if reason or match is None:
        return Score(None, reason or "", "na")
    target = _normal(match.group(1) or match.group(2))
    text = read(sample.artifact)
    return Score.of(_agreement(target, _normal(text)), target=target, text=text)


def _agreement(target: str, text: str) -> float:
    if target in text:
        return 1.0
    return 1.0 - min(Levenshtein.distance(target, text), len(target)) / len(target)


def _normal(text: str) -> str:
    return "".join(text.lower().split())


@cache
def _engine() -> Any:
    # One engine for the process; its messages about models and time would drown the progress of a training.
    return RapidOCR(params={"Global.log_level": "error"})
