"""Frozen modules that wait in main memory, and are on the device only while something computes with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.copying import pinned, to_device

_Slot = tuple[nn.Module, dict[str, Any], str, Tensor]


class NoRoom(ValueError):
    """The device has no room for what is to be brought there; says what it is, and how large. Nothing has moved."""


class Parked:
    """Modules at rest on the CPU.

    Their weights never change, so what is on the device is a copy that is dropped behind its use: nothing is copied
    back. Threads may use them at the same time. name: for messages. moves: how often they were brought.
    """

    def __init__(self, name: str, modules: Sequence[nn.Module], device: torch.device) -> None:
        self.name, self.modules, self.device = name, list(modules), device
        self.moves = 0
        self._lock = threading.Lock()
        self._inside = 0
        self._home: list[_Slot] = []

    def rest(self) -> None:
        """Wait in main memory from now on."""
        for module in self.modules:
            module.to("cpu")
        for tensor in {id(t): t for *_, t in self._slots()}.values():
            tensor.data = pinned(tensor.data)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum({id(t): t.numel() * t.element_size() for *_, t in self._slots()}.values())

    @contextmanager
    def using(self) -> Iterator[None]:
        """Inside, they are on the device. Raises NoRoom."""
        with self._lock:
            if not self._inside and self.device.type != "cpu":
                self._bring()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    for module, table, name, tensor in self._home:
                        table[name] = tensor
                        if isinstance(module, nn.RNNBase):  # it keeps a list of its own, and the copies with it
                            setattr(module, name, tensor)
                    self._home = []

    def _bring(self) -> None:
        slots = list(self._slots())
        there: dict[int, Tensor] = {}
        try:
            for tensor in {id(t): t for *_, t in slots}.values():
                made = to_device(tensor.detach(), self.device)
                there[id(tensor)] = nn.Parameter(made, False) if type(tensor) is nn.Parameter else made
        except torch.OutOfMemoryError as error:
            raise NoRoom(
                f"{self.name}: no room on {self.device} for {self.size / 1e9:.2f} GB that wait in main memory; "
                "lower what else is there then, such as rollout_batch"
            ) from error
        for _, table, name, tensor in slots:
            table[name] = there[id(tensor)]
        self._home = slots
        self.moves += 1

    def _slots(self) -> Iterator[_Slot]:
        for module in {id(m): m for root in self.modules for m in root.modules()}.values():
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for table in tables:
                yield from ((module, table, name, tensor) for name, tensor in table.items() if tensor is not None)
