"""Overlap of a drawing with the figure that its prompt names."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from mmrl.types import Prompt, Sample


def overlap(samples: list[Sample], width: float = 0.16) -> list[float]:
    """Intersection over union of ink and figure, in [0, 1]; the record's `lines` say where the figure is.

    width: of the figure's lines, as a share of the picture's side.
    """
    return [_iou(sample, width) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Asked before training starts: why `overlap` cannot score this prompt, or None."""
    return None if prompt.record.get("lines") else "it has no `lines`"


def _iou(sample: Sample, width: float) -> float:
    drawn = _ink(sample.artifact)
    target = Image.new("L", sample.artifact.size, 255)
    side = target.width
    pen = ImageDraw.Draw(target)
    for line in sample.prompt.record["lines"]:
        pen.line([(number + 1) / 2 * (side - 1) for number in line], fill=0, width=round(width * side))
    figure = _ink(target)
    return float((drawn & figure).sum() / (drawn | figure).sum())


def _ink(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L")) < 128
