"""Eyes as they see a video: as their processor's own input, frames that somebody chose before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mmrl.media import Size
from mmrl.modalities.media.eyes import Eyes
from mmrl.modalities.media.features import Features

FPS = 24  # of frames of which nobody says how fast they follow one another, as processors take it


class Film(Eyes):
    """Videos of so many frames, planned by a blank one of the same size.

    numbers, total, fps: places of the frames among those of the whole video, and how many it has a second.
    Raises ValueError for eyes whose processor takes no videos.
    """

    def __init__(self, eyes: Eyes, numbers: Sequence[int], total: int, fps: float | None) -> None:
        self.__dict__ |= eyes.__dict__
        self.eyes, self.space, self.boxes = eyes, eyes.space, eyes.boxes
        self._told = (list(numbers), total, fps or FPS)
        self._plans: dict[Size, Mapping[str, Any]] = {}
        if eyes.engine == "vllm":
            raise ValueError("videos are sent to vLLM as pictures; set data.videos: frames")
        eyes.film_inputs({})

    def written(self, size: Size) -> str:
        return self.processor.replace_video_token(self._plan(size), 0)

    def seen(self, size: Size) -> Size:
        return self._seen(self._plan(size), size)

    def code(self, size: Size) -> str:
        return "v"

    def depth(self, size: Size) -> int:
        grid = self._plan(size).get("video_grid_thw")
        return 1 if grid is None else int(grid[0][0])

    def process(self, image: Any) -> tuple[dict[str, Tensor], Size]:
        """image: the frames."""
        made = self._made([np.asarray(frame) for frame in image])
        return self.eyes.film_inputs(made), self._seen(made, image[0].size)

    def feature_count(self, inputs: Mapping[str, Tensor]) -> int:
        return self.eyes.feature_count(inputs)

    def features(self, model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[Features]:
        return self.eyes.features(model, inputs)

    def _plan(self, size: Size) -> Mapping[str, Any]:
        if size not in self._plans:
            blank = np.zeros((size[1], size[0], 3), dtype=np.uint8)
            self._plans[size] = self._made([blank] * len(self._told[0]))
        return self._plans[size]

    def _made(self, frames: Sequence[Any]) -> Mapping[str, Any]:
        from transformers.video_utils import VideoMetadata

        numbers, total, fps = self._told
        height, width = frames[0].shape[:2]
        told = VideoMetadata(total, fps, width, height, total / fps, None, list(numbers))
        return self.processor.video_processor(
            videos=[np.stack(frames)],
            video_metadata=[told],
            do_sample_frames=False,
            return_metadata=True,
            return_tensors="pt",
        )

    def _seen(self, made: Mapping[str, Any], size: Size) -> Size:
        grid, films = made.get("video_grid_thw"), self.processor.video_processor
        if grid is None:
            return size
        return int(grid[0][2]) * films.patch_size, int(grid[0][1]) * films.patch_size
