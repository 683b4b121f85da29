"""What the denoiser is told about prompts: rows of each, made once while the text encoders are frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row
from mmrl.modalities.image.families.base import Family
from mmrl.modalities.image.policy import StepPolicy
from mmrl.modalities.kept import Kept, Tensors


class Conditions:
    """asked, size -> the family's condition of these rows, of the weights as they are now.

    limit: bytes of rows of frozen text encoders that are kept on the CPU, in the type that the denoiser computes in;
    the longest unused are thrown away first, and 0 keeps none. What comes out is the same for every limit.
    bringing: around the encoding of those that are not kept, what brings the text encoders to the device.
    trained: whether the text encoders are; then nothing is kept, and there is a graph where gradients are enabled.
    """

    def __init__(
        self,
        family: Family,
        policy: StepPolicy,
        limit: int,
        bringing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.bringing = bringing
        self.family = family
        self.policy = policy
        self.trained = False
        self._kept: Kept[Tensors] | None = Kept(limit) if limit else None

    def __call__(self, asked: Sequence[Asked], size: Extent) -> Condition:
        unique = sorted(dict.fromkeys(asked), key=lambda one: one.against)
        with self.policy.autocast():
            rows = self._now(unique, size) if self.trained else self._once(unique, size)
        if len(unique) == 1 and unique[0].against:
            one = self.family.collate(rows)
            if all(isinstance(value, Tensor) for value in one.values()):  # it is the same for all: nothing is copied
                return {key: value.expand(len(asked), *value.shape[1:]) for key, value in one.items()}
        found = dict(zip(unique, rows, strict=True))
        return self.family.collate([found[one] for one in asked])

    def clear(self) -> None:
        if self._kept is not None:
            self._kept.clear()

    def _now(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        """Of different ones, those that guidance leads away from last."""
        towards = [one for one in asked if not one.against]
        against = list(asked[len(towards) :])
        # Which attention kernel runs depends on whether T5's position bias needs a gradient, and kernels round
        # differently: with one of them rollout, replay and reference are the same function.
        with sdpa_kernel(SDPBackend.MATH):
            rows = self.family.encode(towards, size) if towards else []
            return rows + (self.family.encode_against(against, size) if against else [])

    @torch.no_grad()
    def _once(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        """Each is encoded alone, so that its row does not depend on its neighbours."""
        device, kept = self.family.device, self._kept
        missing = any(kept is None or kept.get((one.key, size)) is None for one in asked)
        with self.bringing() if missing else nullcontext():
            return self._rows(asked, size, device)

    def _rows(self, asked: Sequence[Asked], size: Extent, device: torch.device) -> list[Row]:
        return [{key: value.to(device) for key, value in self._one(one, size).items()} for one in asked]

    def _one(self, one: Asked, size: Extent) -> Row:
        key = (one.key, size)
        known = self._kept.get(key) if self._kept is not None else None
        if known is None:
            encode = self.family.encode_against if one.against else self.family.encode
            known = Tensors({key: self._stored(value) for key, value in encode([one], size)[0].items()})
            if self._kept is not None:
                self._kept.put(key, known)
        return known

    def _stored(self, value: Tensor) -> Tensor:
        # A copy even on the CPU: a view would hold on to all of what it is a part of.
        return value.to("cpu", self.policy.dtype if value.is_floating_point() else value.dtype, copy=True)
