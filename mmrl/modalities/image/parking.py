"""Frozen text encoders and autoencoder wait in main memory and are on the device only while something needs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.modalities import unread
from mmrl.modalities.image.families.base import Family
from mmrl.parking import Parked

# Methods of a family -> the parts that they run.
RUNS = {
    "encode": ("text_encoders",),
    "encode_against": ("text_encoders",),
    "encode_pixels": ("vae",),
    "vae_latents": ("vae",),
    "decode": ("vae",),
    "reconstruct": ("vae",),
}

# Parts -> what they are called to people.
PARKED = {"text_encoders": "text encoders", "vae": "autoencoder"}


class Parking:
    """The frozen parts of a family, at rest on the CPU.

    moves: how often each part was brought to the device.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.device = torch.device("cpu")
        self.moves: Counter[str] = Counter()
        self._parked: dict[str, Parked] = {}
        for name, parts in RUNS.items():
            setattr(family, name, self._with(getattr(family, name), parts))

    def settle(self, device: torch.device) -> None:
        """Park what is frozen, and bring the rest to the device: what is trained there stays."""
        self.device = device
        parts = {"text_encoders": list(self.family.text_encoders.values()), "vae": [self.family.vae]}
        waiting = {id(module) for modules in parts.values() for module in modules}
        for module in self.family.pipeline.components.values():
            if isinstance(module, nn.Module) and id(module) not in waiting:
                unread.move(module, device)
        self._parked = {}
        for name, modules in parts.items():
            frozen = not any(p.requires_grad for module in modules for p in module.parameters())
            if not frozen:
                for module in modules:
                    module.to(device)
            if frozen and modules and device.type != "cpu":
                self._parked[name] = Parked(PARKED[name], modules, device)
                self._parked[name].rest()

    def at_rest(self) -> Mapping[str, Sequence[Tensor]]:
        """The tensors of each part that is parked wherever the run trains on a device of its own."""
        parts = {"text_encoders": list(self.family.text_encoders.values()), "vae": [self.family.vae]}
        held = {n: [t for m in found for t in (*m.parameters(), *m.buffers())] for n, found in parts.items()}
        return {name: tensors for name, tensors in held.items() if not any(t.requires_grad for t in tensors)}

    @contextmanager
    def using(self, part: str) -> Iterator[None]:
        """Inside, the part is on the device. Raises NoRoom."""
        parked = self._parked.get(part)
        if parked is None:
            yield
            return
        before = parked.moves
        with parked.using():
            self.moves[part] += parked.moves - before
            yield

    def _with(self, method: Callable[..., Any], parts: Sequence[str]) -> Callable[..., Any]:
        [part] = parts

        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.using(part):
                return method(*arguments, **options)

        return call
