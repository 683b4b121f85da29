"""What the denoiser is told about prompts: embeddings of texts, made once while the text encoders are frozen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmrl.modalities.image.families.base import Condition, Family
from mmrl.modalities.image.policy import StepPolicy
from mmrl.modalities.kept import Kept, Tensors


class Conditions:
    """texts, size -> stacked embeddings [len(texts), ...] of the weights as they are now; None is no text at all.

    limit: bytes of embeddings of frozen text encoders that are kept on the CPU, in the type that the denoiser computes
    in; the longest unused are thrown away first, and 0 keeps none. What comes out is the same for every limit.
    trained: whether the text encoders are; then nothing is kept, and there is a graph where gradients are enabled.
    """

    def __init__(self, family: Family, policy: StepPolicy, limit: int) -> None:
        self.family = family
        self.policy = policy
        self.trained = False
        self._kept: Kept[Tensors] | None = Kept(limit) if limit else None

    def __call__(self, texts: Sequence[str | None], size: tuple[int, int]) -> Condition:
        unique = sorted(dict.fromkeys(texts), key=lambda text: text is None)
        with self.policy.autocast():
            found = self._now(unique, size) if self.trained else self._once(unique, size)
        if unique == list(texts):
            return found
        row = {text: i for i, text in enumerate(unique)}
        rows = torch.tensor([row[text] for text in texts], device=self.family.device)
        return {key: value.index_select(0, rows) for key, value in found.items()}

    def clear(self) -> None:
        if self._kept is not None:
            self._kept.clear()

    def _now(self, texts: Sequence[str | None], size: tuple[int, int]) -> Condition:
        """Different texts, None last."""
        said = [text for text in texts if text is not None]
        # Which attention kernel runs depends on whether T5's position bias needs a gradient, and kernels round
        # differently: with one of them rollout, replay and reference are the same function.
        with sdpa_kernel(SDPBackend.MATH):
            parts = [self.family.encode(said, size)] if said else []
            if len(said) < len(texts):
                parts.append(self.family.blank(size))
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    @torch.no_grad()
    def _once(self, texts: Sequence[str | None], size: tuple[int, int]) -> Condition:
        """Each text is encoded alone, so that its embedding does not depend on its neighbours."""
        rows = [self._one(text, size) for text in texts]
        return {key: torch.cat([row[key] for row in rows]).to(self.family.device) for key in rows[0]}

    def _one(self, text: str | None, size: tuple[int, int]) -> Tensors:
        known = self._kept.get((text, size)) if self._kept is not None else None
        if known is None:
            made = self.family.blank(size) if text is None else self.family.encode([text], size)
            known = Tensors({key: self._stored(value) for key, value in made.items()})
            if self._kept is not None:
                self._kept.put((text, size), known)
        return known

    def _stored(self, value: Tensor) -> Tensor:
        # A copy even on the CPU: a view would hold on to all of what it is a part of.
        return value.to("cpu", self.policy.dtype if value.is_floating_point() else value.dtype, copy=True)
