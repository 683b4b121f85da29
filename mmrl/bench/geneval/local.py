"""A detector from a local folder: a model of transformers that detects objects, segments them, or is told their names.

The benchmark's own is Mask2Former with a Swin-S on COCO, from mmdet; its weights in transformers' form are a model that
segments here, scores as there: of the class times the mean over the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmrl.bench.geneval.found import Box, Found
from mmrl.config import ConfigError
from mmrl.content import mark_of
from mmrl.near import near, short

QUERY = "a photo of a {}"  # how a model that is told names is asked for one
QUERIED = ("owlvit", "owlv2")

# What the benchmark calls a class -> what models of COCO call it.
OTHER_NAMES = {
    "computer mouse": ("mouse",),
    "tv remote": ("remote",),
    "computer keyboard": ("keyboard",),
    "motorcycle": ("motorbike",),
    "airplane": ("aeroplane",),
    "couch": ("sofa",),
    "potted plant": ("pottedplant",),
    "dining table": ("diningtable",),
    "tv": ("tvmonitor",),
    "donut": ("doughnut",),
    "hair drier": ("hair dryer",),
}


class Local:
    """labels: the classes that are to be found; others are left out. floor: the least score that is told.

    A model that is told names (OWL-ViT, OWLv2) is asked for the labels, all at once. Raises ConfigError for a folder
    without such a model, and for labels that a model of fixed classes does not have.
    """

    OPTIONS = ("device",)
    names_colours = False

    def __init__(self, folder: Path, labels: Sequence[str], floor: float, device: str = "auto") -> None:
        from transformers import AutoConfig, AutoModelForObjectDetection, AutoModelForUniversalSegmentation
        from transformers import AutoModelForZeroShotObjectDetection as AutoModelForQueries

        try:
            config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"detector {folder}: no model of transformers: {str(error).splitlines()[0]}") from None
        made = str((config.architectures or [""])[0])
        auto: Any
        if config.model_type in QUERIED:
            auto, self._find, self._of = AutoModelForQueries, self._queried, dict(enumerate(labels))
        elif made.endswith("ForObjectDetection"):
            auto, self._find, self._of = AutoModelForObjectDetection, self._boxes, _classes(config, labels, folder)
        elif made.endswith("ForUniversalSegmentation"):
            auto, self._find = AutoModelForUniversalSegmentation, self._masks
            self._of = _classes(config, labels, folder)
        else:
            kinds = "ForObjectDetection, ForUniversalSegmentation, OWL-ViT or OWLv2"
            raise ConfigError(f"detector {folder}: a {made or config.model_type} detects nothing here; give a {kinds}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = auto.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.model.to(device).eval()
        self.reader: Any = self._reader(folder, config.model_type in QUERIED)
        self.floor, self.labels = floor, list(labels)
        self.identity = f"{mark_of(folder)} {QUERY if config.model_type in QUERIED else ''} {sorted(labels)}"

    @staticmethod
    def _reader(folder: Path, queried: bool) -> Any:
        from transformers import AutoImageProcessor, AutoProcessor

        try:
            return (AutoProcessor if queried else AutoImageProcessor).from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"detector {folder}: no processor: {str(error).splitlines()[0]}") from None

    @torch.no_grad()
    def detect(self, picture: Image.Image) -> list[Found]:
        return list(self._find(picture, (picture.height, picture.width)))

    def _run(self, **inputs: Any) -> Any:
        return self.model(**self.reader(**inputs, return_tensors="pt").to(self.model.device))

    def _boxes(self, picture: Image.Image, size: tuple[int, int]) -> Iterator[Found]:
        found = self._run(images=picture)
        (told,) = self.reader.post_process_object_detection(found, threshold=self.floor, target_sizes=[size])
        yield from self._named(told)

    def _queried(self, picture: Image.Image, size: tuple[int, int]) -> Iterator[Found]:
        found = self._run(images=picture, text=[[QUERY.format(label) for label in self.labels]])
        (told,) = self.reader.post_process_grounded_object_detection(found, threshold=self.floor, target_sizes=[size])
        yield from self._named(told)

    def _named(self, told: dict[str, Any]) -> Iterator[Found]:
        parts = (told[name].tolist() for name in ("scores", "labels", "boxes"))
        for score, label, (left, top, right, bottom) in zip(*parts):
            if label in self._of:
                yield Found((left, top, right, bottom), self._of[label], score)

    def _masks(self, picture: Image.Image, size: tuple[int, int]) -> Iterator[Found]:
        found = self._run(images=picture)
        (told,) = self.reader.post_process_instance_segmentation(
            found, threshold=self.floor, target_sizes=[size], return_binary_maps=True
        )
        for place, segment in enumerate(told["segments_info"]):
            if segment["label_id"] in self._of:
                mask = np.asarray(told["segmentation"][place].cpu()) > 0
                yield Found(box_of(mask), self._of[segment["label_id"]], segment["score"], mask=mask)


def box_of(mask: np.ndarray) -> Box:
    """Of a mask [h, w] with something in it; right and bottom are behind its last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _classes(config: Any, labels: Sequence[str], folder: Path) -> dict[int, str]:
    """The model's number of each label."""
    numbers = {str(name).casefold(): int(number) for number, name in config.id2label.items()}
    found, missing = {}, []
    for label in labels:
        names = [name for name in (label, *OTHER_NAMES.get(label, ())) if name.casefold() in numbers]
        if names:
            found[numbers[names[0].casefold()]] = label
        else:
            missing.append(label)
    if missing:
        told = f"{len(missing)} of {len(labels)} classes, the first {short(missing[0])}"
        raise ConfigError(
            f"detector {folder}: it does not know {told}; {near(missing[0], numbers, 'take another one')}"
        )
    return found
