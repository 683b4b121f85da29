"""Groups that are asked of a rollout server, and samples that come back: tensors as raw bytes, the rest as JSON.

A message is a safetensors file: 8 bytes with the length of its head, the head, the tensors' bytes as they lie in
memory. Its head has one entry of ours, `told`: JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, Field, ValidationError
from safetensors.torch import load, save
from torch import Tensor

from mmrl.copying import to_host
from mmrl.media import Clip
from mmrl.types import Group, Prompt, Sample, Trajectory

PROTOCOL = 2
ROUTE = "/rollout/generate"
RUN = "X-MMRL-Run"  # the header that says which run asks


@dataclass(frozen=True)
class Policy:
    """What a run and its servers must have alike. weights: gives all parameters by name, of every part, as they are
    now: divided ones are others while they are gathered. shapes: theirs. model: what decides what they compute, as
    JSON."""

    weights: Callable[[], Mapping[str, Tensor]]
    shapes: Mapping[str, Sequence[int]]
    model: Mapping[str, Any]

    @classmethod
    def of(cls, weights: Callable[[], Mapping[str, Tensor]], model: Mapping[str, Any]) -> Policy:
        return cls(weights, {name: list(weight.shape) for name, weight in weights().items()}, model)


def pack(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """A message. Tensors may be anywhere, and share memory."""
    return save(to_host(tensors), {"told": json.dumps(told)})


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The inverse of `pack`. Raises ValueError for what is no such message."""
    try:
        length = int.from_bytes(message[:8], "little")
        told = json.loads(json.loads(message[8 : 8 + length])["__metadata__"]["told"])
        return told, load(message)
    except Exception as error:  # of safetensors' own kinds
        raise ValueError(f"{len(message)} bytes that are no message of rollouts: {error}") from error


@dataclass(frozen=True)
class Asked:
    """n samples of a group, for a step. seed: of the stage. sampling: the section by which they are drawn. wanted: see
    Adapter.wanted. pictures: that the prompt shows, each opened."""

    group: Group
    n: int
    step: int
    seed: int
    sampling: Mapping[str, Any]
    wanted: frozenset[str]
    pictures: tuple[Image.Image, ...] = ()

    @property
    def alike(self) -> str:
        """What groups that are sampled together have in common."""
        told = [self.n, self.step, self.seed, dict(self.sampling), sorted(self.wanted)]
        return json.dumps(told, sort_keys=True)

    def packed(self) -> bytes:
        prompt = self.group.prompt
        told = {
            "protocol": PROTOCOL,
            "prompt": {"id": prompt.id, "text": prompt.text},
            "draw": self.group.draw,
            "n": self.n,
            "step": self.step,
            "seed": self.seed,
            "sampling": dict(self.sampling),
            "wanted": sorted(self.wanted),
        }
        return pack(told, {f"picture.{i}": _pixels(picture) for i, picture in enumerate(self.pictures)})

    @classmethod
    def of(cls, message: bytes) -> Asked:
        """Raises ValueError for another message, or one of another version of the protocol."""
        told, tensors = unpack(message)
        if not isinstance(told, dict) or told.get("protocol") != PROTOCOL:
            spoken = told.get("protocol") if isinstance(told, dict) else None
            raise ValueError(f"protocol {spoken!r}; this server speaks {PROTOCOL}: take one mmrl for both")
        try:
            one = _Told.model_validate(told)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None
        pictures = tuple(_shown(tensors, f"picture.{i}") for i in range(len(tensors)))
        record = {"images": list(pictures)} if pictures else {}
        group = Group(Prompt(one.prompt.id, one.prompt.text, record), 0, draw=one.draw)
        return cls(group, one.n, one.step, one.seed, one.sampling, frozenset(one.wanted), pictures)


class _ToldPrompt(BaseModel, strict=True):
    id: str
    text: str


class _Told(BaseModel, strict=True):
    """The head of a request."""

    protocol: int
    prompt: _ToldPrompt
    draw: int
    n: int = Field(ge=1, le=1 << 16)
    step: int
    seed: int
    sampling: dict[str, Any]
    wanted: list[str]


def packed_samples(samples: Sequence[Sample], mark: str) -> bytes:
    """Samples of one group, all of them of weights with this mark."""
    kept = [sample.actions for sample in samples]
    tensors = {"logp": torch.stack([one.logp for one in kept]), "mask": torch.stack([one.mask for one in kept])}
    for name in kept[0].tensors:
        tensors[f"kept.{name}"] = torch.stack([one.tensors[name] for one in kept])
    for name in samples[0].latents:
        tensors[f"latents.{name}"] = torch.stack([sample.latents[name] for sample in samples])
    kind = _kind(samples[0].artifact)
    if kind is not None:
        tensors["artifact"] = torch.stack([_pixels(sample.artifact) for sample in samples])
    told = {"weight_version": mark, "count": len(samples), "artifact": kind, "stop": [s.stop for s in samples]}
    return pack(told, tensors)


def unpacked_samples(message: bytes, prompt: Prompt) -> tuple[str, list[Sample]]:
    """(mark of the weights, samples of `prompt`). Raises ValueError for another message."""
    told, tensors = unpack(message)

    def part(of: str, row: int) -> dict[str, Tensor]:
        prefix = f"{of}."
        named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        return {name: tensor[row].clone() for name, tensor in named.items()}

    drawn = _ARTIFACTS.get(told["artifact"])
    samples = []
    for row, stop in enumerate(told["stop"]):
        kept = Trajectory(tensors["logp"][row].clone(), tensors["mask"][row].clone(), part("kept", row))
        artifact = None if drawn is None else drawn(tensors["artifact"][row])
        samples.append(Sample(prompt, row, artifact, kept, stop, latents=part("latents", row)))
    return told["weight_version"], samples


def _kind(artifact: Any) -> str | None:
    if artifact is None:
        return None
    return "film" if isinstance(artifact, Clip) else "picture"


def _pixels(artifact: Any) -> Tensor:
    """[height, width, 3] uint8 of a picture; of a film [frames, height, width, 3]."""
    return torch.from_numpy(np.array(artifact, copy=True))


def _shown(tensors: Mapping[str, Tensor], name: str) -> Image.Image:
    """Raises ValueError where it is none."""
    pixels = tensors.get(name)
    if pixels is None or pixels.dtype != torch.uint8 or pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] != 3:
        is_ = "nothing" if pixels is None else f"{pixels.dtype} {list(pixels.shape)}"
        raise ValueError(f"{name} is {is_}, and has to be torch.uint8 [height, width, 3]")
    return _picture(pixels)


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.numpy())


def _film(pixels: Tensor) -> Clip:
    return Clip(tuple(map(_picture, pixels)))


_ARTIFACTS: dict[str | None, Callable[[Tensor], Any]] = {"picture": _picture, "film": _film}
