"""What the denoiser is told about prompts: embeddings of texts, made once while the text encoders are frozen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmrl.modalities.image.families.base import Condition, Family
from mmrl.modalities.image.policy import StepPolicy
from mmrl.modalities.kept import Kept, Tensors

# Bytes of embeddings that are kept; one of FLUX has about 4 MB, all of a small model's prompts fit.
LIMIT = 1 << 30


class Conditions:
    """texts, size -> stacked embeddings [len(texts), ...] of the weights as they are now.

    trained: whether the text encoders are; then nothing is kept, and there is a graph where gradients are enabled.
    """

    def __init__(self, family: Family, policy: StepPolicy, limit: int = LIMIT) -> None:
        self.family = family
        self.policy = policy
        self.trained = False
        self._kept: Kept[Tensors] = Kept(limit)

    def __call__(self, texts: Sequence[str], size: tuple[int, int]) -> Condition:
        unique = list(dict.fromkeys(texts))
        with self.policy.autocast():
            found = self._now(unique, size) if self.trained else self._once(unique, size)
        if unique == list(texts):
            return found
        row = {text: i for i, text in enumerate(unique)}
        rows = torch.tensor([row[text] for text in texts], device=self.family.device)
        return {key: value.index_select(0, rows) for key, value in found.items()}

    def clear(self) -> None:
        self._kept.clear()

    def _now(self, texts: Sequence[str], size: tuple[int, int]) -> Condition:
        # Which attention kernel runs depends on whether T5's position bias needs a gradient, and kernels round
        # differently: with one of them rollout, replay and reference are the same function.
        with sdpa_kernel(SDPBackend.MATH):
            return self.family.encode(texts, size)

    @torch.no_grad()
    def _once(self, texts: Sequence[str], size: tuple[int, int]) -> Condition:
        """Each text is encoded alone, so that its embedding does not depend on its neighbours."""
        rows = []
        for text in texts:
            condition = self._kept.get((text, size))
            if condition is None:
                condition = Tensors({k: v.cpu() for k, v in self.family.encode([text], size).items()})
                self._kept.put((text, size), condition)
            rows.append(condition)
        return {key: torch.cat([row[key] for row in rows]).to(self.family.device) for key in rows[0]}
