"""Copies between main memory and a GPU that hold nobody up longer than they have to; elsewhere they are plain copies.

To a GPU they are made from page-locked memory, in the order of its stream: what computes with them comes behind. From a
GPU they go through two page-locked buffers in turn, so that one is emptied while the other is filled; nothing is read,
and no buffer filled again, before the copy that fills it has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

# Bytes of a buffer.
BUFFER = 64 << 20


class Lane(Protocol):
    """How bytes leave a device."""

    def buffer(self, size: int) -> Tensor:
        """[size] uint8 in main memory, which the device can write to."""

    def begin(self, target: Tensor, source: Tensor) -> Callable[[], None]:
        """Begin to copy bytes into a part of a buffer; what is returned waits until they are there."""


class CudaLane:
    """On the stream that computes, behind what computes the numbers."""

    def buffer(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def begin(self, target: Tensor, source: Tensor) -> Callable[[], None]:
        target.copy_(source, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(source.device))
        return copied.synchronize


def pinned(tensor: Tensor) -> Tensor:
    """In page-locked memory where there is a GPU, so that it can be brought there again and again; itself elsewhere."""
    there = tensor.device.type == "cpu" and torch.cuda.is_available() and not tensor.is_pinned()
    return tensor.pin_memory() if there else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """As `tensor.to(device)`, without waiting for what the GPU has to do before. A page-locked tensor must not be
    written to until something has waited for the GPU; of any other, a copy travels, whose memory torch keeps meanwhile.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in main memory, contiguous, each with memory of its own, whole when this returns."""
    away = {name: tensor for name, tensor in tensors.items() if tensor.device.type == "cuda"}
    found = drained(away, CudaLane()) if away else {}
    here = {name: tensor for name, tensor in tensors.items() if name not in away}
    found |= {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in here.items()}
    return {name: found[name] for name in tensors}


def drained(tensors: Mapping[str, Tensor], lane: Lane, size: int = BUFFER) -> dict[str, Tensor]:
    """See to_host. size: of each of the two buffers, in bytes."""
    found = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
    free = deque(lane.buffer(size) for _ in range(2))
    begun: deque[tuple[Tensor, Tensor, Callable[[], None]]] = deque()

    def finish() -> None:
        target, buffer, wait = begun.popleft()
        wait()
        target.copy_(buffer[: len(target)])
        free.append(buffer)

    for name, tensor in tensors.items():
        for target, source in zip(_bytes(found[name], size), _bytes(tensor.detach().contiguous(), size)):
            if not free:
                finish()
            buffer = free.popleft()
            begun.append((target, buffer, lane.begin(buffer[: len(source)], source)))
    while begun:
        finish()
    return found


def _bytes(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """A tensor's memory in pieces of at most `size` bytes."""
    yield from tensor.view(-1).view(torch.uint8).split(size) if tensor.numel() else ()
