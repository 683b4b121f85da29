"""Human Preference Score v2 and v2.1 (arXiv 2306.09341): the cosine of an OpenCLIP ViT-H-14 that learned from choices.

Ours and not the package `hpsv2`: that one reads its checkpoint (a pickle) anew at each call, scores one picture at a
time, and pins protobuf<4 and a pytest. Its weights are open_clip's own, so open_clip loads them.
"""

from __future__ import annotations

import torchvision.transforms.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from mmrl.types import Sample, Score

from .clip import Clip
from .towers import batches, weights_of

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class score:
    """cosine(picture, prompt) * scale; about 0.15 to 0.35 as published, where a hundredth is a lot.

    weights: .safetensors file of HPS_v2_compressed.pt or HPS_v2.1_compressed.pt, converted; the scores of the two
    versions are not comparable. model: the open_clip name or config of their architecture. A picture is made to fit a
    square, and the rest of the square is black, as in the published code. batch, device and prompts that are cut: as
    in clip.score.
    """

    def __init__(
        self,
        weights: str,
        model: str = "ViT-H-14",
        scale: float = 1.0,
        batch: int = 16,
        device: str | None = None,
    ) -> None:
        batches((), batch)
        path = weights_of(weights, "weights", "HPS_v2.1_compressed.pt of the hub's xswu/HPSv2, to be converted")
        self.clip, self.scale = Clip(model, str(path), batch, device, self._preprocess), scale

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self.clip.scores(samples, self.scale)

    def _preprocess(self, picture: Image.Image) -> Tensor:
        """[3, side, side]: the long side resized to the model's, padded with black around, normalised."""
        side = self.clip.model.visual.image_size
        side = side if isinstance(side, int) else side[0]
        pixels, scale = F.to_tensor(picture), side / max(picture.size)
        if scale != 1.0:
            height, width = (max(1, round(length * scale)) for length in (picture.height, picture.width))
            pixels = F.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
        height, width = pixels.shape[1:]
        left, top = (side - width) // 2, (side - height) // 2
        pixels = F.pad(pixels, [left, top, side - width - left, side - height - top], fill=0.0)
        return F.normalize(pixels, MEAN, STD)
