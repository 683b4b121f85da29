"""How a family sees: where a picture stands, from its size alone, and what its tower makes of the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrl.media import Size
from mmrl.modalities.media.features import Features

if TYPE_CHECKING:
    from PIL import Image


class Eyes:
    """The defaults suit models that show a picture as a row of placeholders.

    processor: the model's own. image_id: the id that stands for a picture. places, slots: as Family's, of pictures.
    """

    space = "norm1000"  # coordinates that models of the family write
    boxes = "json"  # and how they write a box: a key of mmrl.boxes.SYNTAXES
    engine = "transformers"  # which samples

    def __init__(self, processor: Any, image_id: int) -> None:
        self.processor, self.image_id = processor, image_id
        self.places = self.slots = torch.tensor([image_id])
        self._expansions: dict[str, Tensor] = {}

    def among(self, pictures: int) -> Eyes:
        """The family as it shows each of so many pictures of a record."""
        return self

    def film_inputs(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        """What `features` takes of what the processor makes of a video. Raises ValueError where it takes none."""
        raise ValueError("its processor takes no videos; set data.videos: frames")

    # ---------------------------------------------------------------- a picture's places, from its size alone

    def written(self, size: Size) -> str:
        """What the processor writes in the place of a picture of this size. Raises ValueError for one it refuses."""
        raise NotImplementedError

    def seen(self, size: Size) -> Size:
        """Size of what the processor makes of a picture of this size."""
        return size

    def expansion(self, size: Size) -> Tensor:
        """[e] int64: the ids that stand in the place of one picture of this size."""
        text = self.written(size)
        if text not in self._expansions:
            ids = self.processor.tokenizer(text, add_special_tokens=False).input_ids
            self._expansions[text] = torch.tensor(ids, dtype=torch.int64)
        return self._expansions[text]

    def code(self, size: Size) -> str:
        """How a rendered message tells of the picture: its parts, or v for a video."""
        return str(self.parts(size))

    def depth(self, size: Size) -> int:
        """Layers in time, of a video; 1 for a picture."""
        return 1

    def parts(self, size: Size) -> int:
        """Places that a picture of this size has in a framed text, each of which becomes its `expansion`."""
        return 1

    # ---------------------------------------------------------------- pictures

    def process(self, image: Image.Image) -> tuple[dict[str, Tensor], Size]:
        """(what `features` takes, size of what the processor made of the picture)."""
        raise NotImplementedError

    def processor_options(self) -> dict[str, Any]:
        """What a processor must be told to do as `process` does, where its own files do not say so."""
        return {}

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        """Features that the tower will make of a processed picture."""
        raise NotImplementedError

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        """What the model's tower makes of processed pictures, all in one forward."""
        raise NotImplementedError
