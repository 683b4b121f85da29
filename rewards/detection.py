"""Detection: labelled boxes against those of the record, in pixels of the original picture.

The record's column `objects` holds the truth: a list of {"bbox_2d": [x1, y1, x2, y2], "label": text}, perhaps empty,
or the same as JSON. The policy gives such a list (in a code fence, as a rule) in its own coordinates, which come to
original pixels through the picture that it was shown. Labels are compared without case and outer white space.

Where both lists are empty the score is 1, where only one is it is 0; an answer that cannot be read scores 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmrl.media import iou, pictures_of
from mmrl.types import Prompt, Sample, Score

from .answers import text_of
from .boxes import Item, NoBoxes, column, in_pixels, items_in, not_in, outside, placed, record_items

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))  # COCO's
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST_OF_A_LABEL = 100  # COCO's limit per picture


def average_precision(
    samples: list[Sample],
    count_penalty: bool = True,
    thresholds: Sequence[float] = THRESHOLDS,
    where: str = "auto",
    picture: int = 0,
) -> list[Score]:
    """COCO's AP at IoU 0.5, 0.55 ... 0.95 on one picture, every box with confidence 1, times a count penalty.

    Mean over the record's labels and the thresholds of the 101-point interpolated precision; the order of the policy's
    list stands for the order of confidence, and labels that the record lacks count nothing, as in COCO.
    count_penalty: times min(1, record's boxes / policy's boxes), VLM-R1's odLength; without it a long list of guesses
    behind the right ones is free, and policies find that out.
    where: see boxes.items_in. picture: which of the pictures that were shown the boxes are of.
    """
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"thresholds={list(thresholds)} must be one or more numbers above 0 and at most 1")

    def score(said: list[Item], wanted: list[Item]) -> float:
        penalty = min(1.0, len(wanted) / len(said)) if count_penalty else 1.0
        return _mean_precision(said, wanted, thresholds) * penalty

    return [_score(sample, where, picture, score) for sample in samples]


def matched(
    samples: list[Sample],
    threshold: float = 0.5,
    location: float = 0.7,
    completeness: float = 0.3,
    where: str = "auto",
    picture: int = 0,
) -> list[Score]:
    """Greedy matching: VLM-R1's weighted sum, 0 to 1, with its weights of 0.7 and 0.3.

    Pairs of one label with an IoU of `threshold` or more are taken from the best down, each box once. The score is
    (location * sum of the pairs' IoU / record's boxes + completeness * (1 - (missed + false) / 2)) / (sum of the
    weights), with the shares of the record's boxes that are missed and of the policy's that match none.
    False boxes cost half of `completeness` at most: a flood of them is cheap here. VLM-R1's third term, of labels, has
    weight 0 there and is left out. where, picture: as in `average_precision`.
    """
    if not 0 < threshold <= 1 or min(location, completeness) < 0 or location + completeness == 0:
        raise ValueError(f"threshold={threshold}, weights {location} and {completeness}: need (0, 1] and a sum above 0")

    def score(said: list[Item], wanted: list[Item]) -> float:
        overlaps = _greedy(said, wanted, threshold)
        missed, false = 1 - len(overlaps) / len(wanted), 1 - len(overlaps) / len(said)
        parts = location * sum(overlaps) / len(wanted) + completeness * (1 - (missed + false) / 2)
        return parts / (location + completeness)

    return [_score(sample, where, picture, score) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why these rewards cannot score this prompt, or None; to be asked before training."""
    if column(prompt, ("objects",)) is None:
        return _lacks(prompt)
    try:
        record_items(prompt.record["objects"])
    except ValueError as error:
        return _malformed(prompt, error)
    return None


def _score(sample: Sample, where: str, picture: int, score: Callable[[list[Item], list[Item]], float]) -> Score:
    if column(sample.prompt, ("objects",)) is None:
        return Score(None, _lacks(sample.prompt), "na")
    try:
        wanted = record_items(sample.prompt.record["objects"])
    except ValueError as error:
        return Score.invalid(_malformed(sample.prompt, error))
    try:
        said = placed(items_in(text_of(sample), where), sample, picture)
    except NoBoxes as error:
        return Score.of(0.0, boxes=[], why=str(error))
    except IndexError as error:
        return Score.invalid(str(error))
    if strange := outside((item.box for item in wanted), pictures_of(sample.media)[picture].original):
        return Score.invalid(not_in(strange, sample, picture))
    shown = [{"bbox_2d": [round(v, 1) for v in item.box], "label": item.label} for item in said if in_pixels(item.box)]
    if not said or not wanted:
        return Score.of(float(not said and not wanted), boxes=shown)
    return Score.of(score(said, wanted), boxes=shown)


# -------------------------------------------------------------------- measures


def _mean_precision(said: list[Item], wanted: list[Item], thresholds: Sequence[float]) -> float:
    labels = sorted({_label(item) for item in wanted})
    return float(
        np.mean([_precision(_of(said, label), _of(wanted, label), at) for label in labels for at in thresholds])
    )


def _precision(said: list[Item], wanted: list[Item], threshold: float) -> float:
    """The 101-point interpolated precision of the boxes of one label, in the order of the list."""
    free, right = list(wanted), []
    for item in said[:_MOST_OF_A_LABEL]:
        best = max(free, key=lambda gold: _overlap(item, gold), default=None)
        right.append(best is not None and _overlap(item, best) >= threshold)
        if best is not None and right[-1]:
            free.remove(best)
    if not right:
        return 0.0
    found = np.cumsum(right)
    recall, precision = found / len(wanted), found / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    places = np.searchsorted(recall, _RECALLS)
    return float(np.append(envelope, 0.0)[places].mean())


def _greedy(said: list[Item], wanted: list[Item], threshold: float) -> list[float]:
    """The overlaps of the pairs that are matched, best first."""
    pairs = [
        (overlap, s, w)
        for s, item in enumerate(said)
        for w, gold in enumerate(wanted)
        if _label(item) == _label(gold) and (overlap := _overlap(item, gold)) >= threshold
    ]
    overlaps, taken_s, taken_w = [], set(), set()
    for overlap, s, w in sorted(pairs, key=lambda pair: -pair[0]):
        if s not in taken_s and w not in taken_w:
            taken_s.add(s)
            taken_w.add(w)
            overlaps.append(overlap)
    return overlaps


def _overlap(item: Item, gold: Item) -> float:
    return iou(item.box, gold.box) if in_pixels(item.box) else 0.0


def _label(item: Item) -> str:
    return " ".join(item.label.casefold().split())


def _of(items: list[Item], label: str) -> list[Item]:
    return [item for item in items if _label(item) == label]


def _lacks(prompt: Prompt) -> str:
    return f"prompt {prompt.id!r} lacks `objects`, boxes with labels (data.columns can take them from another column)"


def _malformed(prompt: Prompt, error: ValueError) -> str:
    return f"prompt {prompt.id!r}: `objects` cannot be read: {error}"
