"""Boxes that point at a part of a picture, against the boxes of the record, in pixels of the original picture.

The record's column `boxes` (or SATORI's `bboxs`, or `bbox`) holds them: one box [x1, y1, x2, y2], or a list. What the
policy writes is in its own coordinates and comes to original pixels through the picture that it was really shown
(mmrl.media.to_original); no size is computed anew here.
"""

from __future__ import annotations

from collections.abc import Callable

from mmrl import media
from mmrl.media import Box, pictures_of
from mmrl.types import Prompt, Sample, Score

from .answers import text_of
from .boxes import NoBoxes, column, in_pixels, items_in, not_in, outside, placed, record_items

_COLUMNS = ("boxes", "bboxs", "bbox")


def union_iou(
    samples: list[Sample], where: str = "tag:bbox", picture: int = 0, count_penalty: bool = False
) -> list[Score]:
    """Intersection over union of what the policy's boxes cover and what the record's cover, 0 to 1: SATORI.

    0 where there are no boxes, where one is not four finite numbers, and over 300 boxes. Empty and reversed boxes
    cover nothing; what lies outside the picture counts against the policy. No matching is needed, and none is seen:
    one region cut into a hundred boxes scores as much as one box. count_penalty multiplies by
    min(1, record's boxes / policy's boxes) against that; it is not SATORI's.
    where: see boxes.items_in, read strictly. picture: which of the pictures that were shown the policy's boxes are of.
    """

    def score(said: list[Box], wanted: list[Box]) -> float:
        penalty = min(1.0, len(wanted) / len(said)) if count_penalty and said else 1.0
        return media.union_iou(said, wanted) * penalty

    return [_score(sample, where, picture, score, strict=True) for sample in samples]


def box_iou(samples: list[Sample], where: str = "auto", picture: int = 0) -> list[Score]:
    """Intersection over union of the policy's first box and the record's box, 0 to 1: VLM-R1's soft REC reward.

    Of several boxes in the record the best one counts, of several of the policy the first. 0 without a box, and for
    an empty, reversed or not finite one. where, picture: as in `union_iou`, with four numbers in brackets read too.
    """
    return [_score(sample, where, picture, _first_iou, strict=False) for sample in samples]


def iou_at(samples: list[Sample], threshold: float = 0.5, where: str = "auto", picture: int = 0) -> list[Score]:
    """1 where `box_iou` is `threshold` or more, else 0: the accuracy that is reported as Acc@0.5.

    Raises ValueError for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} must be above 0 and at most 1")

    def score(said: list[Box], wanted: list[Box]) -> float:
        return float(_first_iou(said, wanted) >= threshold)

    return [_score(sample, where, picture, score, strict=False) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why these rewards cannot score this prompt, or None; to be asked before training."""
    try:
        return None if _record_boxes(prompt) else _lacks(prompt)
    except ValueError as error:
        return _malformed(prompt, error)


def _first_iou(said: list[Box], wanted: list[Box]) -> float:
    return max((media.iou(said[0], box) for box in wanted), default=0.0) if said else 0.0


def _score(
    sample: Sample, where: str, picture: int, score: Callable[[list[Box], list[Box]], float], strict: bool
) -> Score:
    try:
        wanted = _record_boxes(sample.prompt)
    except ValueError as error:
        return Score.invalid(_malformed(sample.prompt, error))
    if not wanted:
        return Score(None, _lacks(sample.prompt), "na")
    try:
        items = placed(items_in(text_of(sample), where, strict), sample, picture)
    except NoBoxes as error:
        return Score.of(0.0, boxes=[], why=str(error))
    except IndexError as error:
        return Score.invalid(str(error))
    if strange := outside(wanted, pictures_of(sample.media)[picture].original):
        return Score.invalid(not_in(strange, sample, picture))
    boxes = [item.box for item in items]
    if not all(map(in_pixels, boxes)):
        return Score.of(0.0, boxes=[], why="a box is not finite")
    value = min(1.0, max(0.0, score(boxes, wanted)))  # rounding of large areas may leave [0, 1]
    return Score.of(value, boxes=[[round(v, 1) for v in box] for box in boxes])


def _record_boxes(prompt: Prompt) -> list[Box]:
    return [item.box for item in record_items(column(prompt, _COLUMNS))]


def _lacks(prompt: Prompt) -> str:
    return f"prompt {prompt.id!r} lacks `boxes`, in original pixels (data.columns can take them from another column)"


def _malformed(prompt: Prompt, error: ValueError) -> str:
    return f"prompt {prompt.id!r}: `boxes` cannot be read: {error}"
