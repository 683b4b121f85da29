"""The parts of an image model: which are trained, what their parameters are called, a tag of their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image import lora
from mmrl.modalities.image.config import COMPONENTS, ModelConfig
from mmrl.modalities.image.families.base import Family
from mmrl.seeds import seed_of


class Parts:
    """denoiser (all of the family's policies), text_encoders and vae of one pipeline, everything in eval mode."""

    def __init__(self, family: Family, config: ModelConfig) -> None:
        self.family = family
        self.config = config
        self.chosen: set[str] = set()
        self._acting: list[nn.Parameter] = []

    def modules(self) -> dict[str, nn.Module]:
        return {**self.family.denoisers, "vae": self.family.vae, **self.family.text_encoders}

    def select(self, components: Sequence[str] | None) -> None:
        """Choose the trained parts; the rest is frozen.

        Trained weights are float32 and stay so when they are frozen again: rounding them would undo small updates.
        """
        chosen = set(self.config.components if components is None else components)
        if unknown := chosen - set(COMPONENTS):
            raise Unsupported(f"components: unknown {sorted(unknown)}; known: {', '.join(COMPONENTS)}")
        if self.config.train == "lora" and chosen != {"denoiser"}:
            raise Unsupported(f"components: {sorted(chosen)} with model.train lora, which trains the denoiser only")
        self.chosen = chosen
        for name, module in self.modules().items():
            module.eval()  # no dropout: rollout and replay must be the same function
            part = self._component(name)
            for key, parameter in module.named_parameters():
                trained = part in chosen and (self.config.train == "full" or lora.is_lora(key))
                parameter.requires_grad_(trained)
                if trained and parameter.dtype != torch.float32:
                    parameter.data = parameter.data.float()
        self._acting = [p for name, p in self.trainable().items() if not name.startswith("vae.")]

    def _component(self, name: str) -> str:
        if name in self.family.text_encoders:
            return "text_encoders"
        return "denoiser" if name in self.family.policies else name

    def trainable(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{key}": parameter
            for name, module in self.modules().items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    @property
    def act(self) -> bool:
        """Whether a log-probability depends on what is trained."""
        return bool(self._acting)

    def tag(self) -> int:
        """A number made of the bits of the trained weights that act: an update changes it, as do the reference's;
        saving and resuming do not."""
        sums = [p.detach().view(torch.int32).sum() for p in self._acting]
        return seed_of(*(torch.stack(sums).tolist() if sums else ()))
