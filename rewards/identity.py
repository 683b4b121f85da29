"""Identity: are the subjects that the prompt shows by pictures all in the picture, each once and not mixed?

MultiCrafter's Multi-ID Alignment Reward in a form for anything that a detector finds; see identities.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from mmrl.bench.geneval.found import Found
from mmrl.bench.geneval.load import open_detector
from mmrl.pictures import PictureError, check_image, open_image
from mmrl.types import Prompt, Sample, Score

from .features import open_features
from .identities import Rules, matched
from .towers import MAX_PIXELS, batches, place_of, rgb

_MOST = 64  # objects of a picture that are looked at, the surest


class subjects:
    """How well the subjects of a prompt's reference pictures are found in the sample, each in an object of its own.

    0 to 1. Subjects are the record's column `images`, one a picture; in each, and in the sample, a detector finds
    objects, which are cut out; a reference without any is taken as a whole. Pairs are made for the largest sum
    (Hungarian assignment); what is missing, there twice or a mixture of two costs: see identities.matched for the
    formula, and Rules for floor, same, mixing, doubles, strangers. `details` has each subject's object, similarity and
    credit.

    detector, detector_options: see mmrl.bench.geneval.load.open_detector. labels: the classes that count, which a
    detector that is told names is asked for; null: all that it finds, where it has names of its own. least: how sure it
    has to be. features: see features.open_features; batch, device, dtype: of the model. references: the column; names:
    the column of their classes, one a picture: a subject is an object of its class then. cut: false takes references
    as wholes.
    """

    def __init__(
        self,
        detector: str,
        features: str,
        detector_options: Mapping[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        least: float = 0.3,
        references: str = "images",
        names: str = "names",
        cut: bool = True,
        floor: float = 0.0,
        same: float = 0.5,
        mixing: float = 1.0,
        doubles: float = 1.0,
        strangers: float = 0.0,
        batch: int = 32,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        if not 0 <= least <= 1:
            raise ValueError(f"least={least} must be from 0 to 1")
        self.rules = Rules(floor, same, mixing, doubles, strangers)
        self.labels, self.least, self.column, self.names, self.cut = labels, least, references, names, cut
        if labels is None and ".py:" not in detector:
            raise ValueError("labels: name the classes that this detector is to find")
        batches((), batch)
        place_of(device, dtype)
        self.detector = open_detector(detector, list(labels or ()), least, detector_options or {})
        self.features = open_features(features, batch, device, dtype)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        shown: dict[str, Any] = {}
        for prompt in {sample.prompt.id: sample.prompt for sample in samples}.values():
            reason = self.check_prompt(prompt)
            shown[prompt.id] = Score(None, reason, "na") if reason else self._subjects(prompt)
        return [
            found if isinstance(found := shown[sample.prompt.id], Score) else self._score(sample, found)
            for sample in samples
        ]

    def check_prompt(self, prompt: Prompt) -> str | None:
        """Why the prompt cannot be scored, or None."""
        refs, names = prompt.record.get(self.column), prompt.record.get(self.names)
        if not isinstance(refs, list | tuple) or not refs:
            return f"prompt {prompt.id!r} shows no subjects: its column {self.column!r} holds no pictures"
        if names is not None and (not isinstance(names, list | tuple) or len(names) != len(refs)):
            return f"prompt {prompt.id!r}: its column {self.names!r} is no list of {len(refs)} classes, one a picture"
        unknown = [str(name) for name in names or () if self.labels is not None and name not in self.labels]
        if unknown:
            return f"prompt {prompt.id!r}: {unknown[0]!r:.80} is none of the reward's labels"
        try:
            for ref in refs:
                check_image(ref, prompt.root, MAX_PIXELS)
        except PictureError as error:
            return f"prompt {prompt.id!r}: {error}"
        return None

    def _subjects(self, prompt: Prompt) -> Any:
        """(features [N, D], their classes or None)."""
        names = prompt.record.get(self.names)
        parts = []
        for place, ref in enumerate(prompt.record[self.column]):
            picture = open_image(ref, prompt.root, MAX_PIXELS)
            found = self._objects(picture) if self.cut else []
            found = [one for one in found if names is None or one.label == names[place]]
            parts.append(_part(picture, found[0]) if found else picture)
        return self.features(parts), names

    def _score(self, sample: Sample, subjects: Any) -> Score:
        try:
            picture = rgb(sample.artifact)
        except PictureError as error:
            return Score.invalid(str(error))
        references, names = subjects
        found = self._objects(picture)
        objects = self.features([_part(picture, one) for one in found]) if found else references[:0]
        allowed = None if names is None else [[one.label == name for one in found] for name in names]
        made = matched(references, objects, self.rules, allowed)
        details = {
            "subjects": [
                {
                    "object": None if one.partner is None else found[one.partner].as_json(),
                    "similarity": round(one.similarity, 4),
                    "mixed": round(one.mixed, 4),
                    "credit": round(one.credit, 4),
                }
                for one in made.subjects
            ],
            "missing": sum(one.partner is None for one in made.subjects),
            "doubles": len(made.doubles),
            "strangers": len(made.strangers),
        }
        return Score.of(made.score, **details)

    def _objects(self, picture: Image.Image) -> list[Found]:
        """The surest first."""
        found = [
            one
            for one in self.detector.detect(picture)
            if one.score >= self.least and (self.labels is None or one.label in self.labels)
        ]
        return sorted(found, key=lambda one: -one.score)[:_MOST]


def _part(picture: Image.Image, one: Found) -> Image.Image:
    """The part of a picture that is in the object's box, one pixel at least."""
    left, top, right, bottom = (round(value) for value in one.box)
    left, top = min(max(left, 0), picture.width - 1), min(max(top, 0), picture.height - 1)
    return picture.crop(
        (left, top, min(max(right, left + 1), picture.width), min(max(bottom, top + 1), picture.height))
    )
