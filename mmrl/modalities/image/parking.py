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

    Their weights never change, so what is on the device is a copy that is dropped behind its use: nothing is copied
    back. moves: how often each part was brought to the device.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.device = torch.device("cpu")
        self.moves: Counter[str] = Counter()
        self._parked: dict[str, list[nn.Module]] = {}
        self._inside: Counter[str] = Counter()
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
            for module in modules:
                module.to("cpu" if frozen else device)
            if frozen and modules and device.type != "cpu":
                self._parked[name] = modules

    def at_rest(self) -> Mapping[str, Sequence[Tensor]]:
        """The tensors of each part that is parked wherever the run trains on a device of its own."""
        parts = {"text_encoders": list(self.family.text_encoders.values()), "vae": [self.family.vae]}
        held = {n: [t for m in found for t in (*m.parameters(), *m.buffers())] for n, found in parts.items()}
        return {name: tensors for name, tensors in held.items() if not any(t.requires_grad for t in tensors)}

    @contextmanager
    def using(self, part: str) -> Iterator[None]:
        """Inside, the part is on the device."""
        self._inside[part] += 1
        brought = self._parked.get(part, []) if self._inside[part] == 1 else []
        home = _moved(brought, self.device)
        if brought:
            self.moves[part] += 1
        try:
            yield
        finally:
            for table, name, tensor in home:
                table[name] = tensor
            self._inside[part] -= 1

    def _with(self, method: Callable[..., Any], parts: Sequence[str]) -> Callable[..., Any]:
        [part] = parts

        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.using(part):
                return method(*arguments, **options)

        return call


def _moved(modules: Sequence[nn.Module], device: torch.device) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Put copies on the device in place of all tensors, ties kept; what was there, and where."""
    home: list[tuple[dict[str, Any], str, Tensor]] = []
    copies: dict[int, Tensor] = {}
    for module in {id(m): m for root in modules for m in root.modules()}.values():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is None:
                    continue
                home.append((table, name, tensor))
                if id(tensor) not in copies:
                    made = tensor.detach().to(device)
                    copies[id(tensor)] = nn.Parameter(made, False) if type(tensor) is nn.Parameter else made
                table[name] = copies[id(tensor)]
    return home
