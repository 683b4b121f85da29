"""Small heads of linear layers, read from .safetensors files."""

from __future__ import annotations

import re

from safetensors.torch import load_file
from torch import Tensor

from mmrl.rewarding import RewardError
from mmrl.share import resolve


def linear_layers(head: str, whose: str) -> list[tuple[Tensor, Tensor]]:
    """[(weight [out, in], bias [out])] in float32 of `<name>.weight` and `<name>.bias`, in the natural order of their
    names; the last layer has one output. Raises RewardError, which names the reward `whose`, and FileNotFoundError."""
    path = resolve(head)
    if path.suffix != ".safetensors":
        raise RewardError(f"{whose}: the option `head` must name a .safetensors file, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"{whose}: the option `head` must name a .safetensors file, there is no {path}")
    tensors = load_file(path)
    names = sorted((n for n in tensors if n.endswith("weight")), key=_natural)
    layers: list[tuple[Tensor, Tensor]] = []
    for name in names:
        weight = tensors[name].float()
        bias = tensors.get(name.removesuffix("weight") + "bias", weight.new_zeros(len(weight))).float()
        if weight.ndim != 2 or (layers and layers[-1][0].shape[0] != weight.shape[1]):
            raise RewardError(f"{whose}: {path.name}: {name} {tuple(weight.shape)} does not fit the layers before")
        layers.append((weight, bias))
    if not layers or layers[-1][0].shape[0] != 1:
        raise RewardError(f"{whose}: {path.name}: the last linear layer must have one output")
    return layers


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
