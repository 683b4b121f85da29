"""Aesthetic score: a small head on the CLIP embedding of the picture; the prompt is not looked at."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrl.rewarding import RewardError
from mmrl.types import Sample, Score

from .clip import Clip
from .heads import linear_layers
from .towers import batches, score_pictures

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
}


class score:
    """head(CLIP embedding of unit length) * scale.

    head: .safetensors file of linear layers, `<name>.weight` [out, in] and `<name>.bias` [out], applied in
    the natural order of their names; the last one has one output.
    activation: between the layers: "none" (as in the published heads of LAION's predictor), "relu" or "gelu".
    model, pretrained, batch, device: the CLIP model that the head was trained on; see clip.Clip.
    """

    def __init__(
        self,
        head: str,
        model: str = "ViT-L-14",
        pretrained: str | None = None,
        activation: str = "none",
        scale: float = 1.0,
        batch: int = 32,
        device: str | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise RewardError(f"aesthetic: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        batches((), batch)
        self.layers = linear_layers(head, "aesthetic")
        self.clip = Clip(model, pretrained, batch, device)
        self.layers = [(w.to(self.clip.device), b.to(self.clip.device)) for w, b in self.layers]
        self.activation = ACTIVATIONS[activation]
        self.scale = scale

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return score_pictures(
            samples, lambda pictures, _: (self._head(self.clip.images(pictures)) * self.scale).tolist()
        )

    @torch.inference_mode()
    def _head(self, x: Tensor) -> Tensor:
        """[N, D] -> [N]"""
        width = self.layers[0][0].shape[1]
        if x.shape[1] != width:
            raise RewardError(
                f"aesthetic: the head takes {width} features, the CLIP model gives {x.shape[1]}; "
                "set `model` to the one that the head was trained on"
            )
        for place, (weight, bias) in enumerate(self.layers):
            x = F.linear(self.activation(x) if place else x, weight, bias)
        return x[:, 0]
