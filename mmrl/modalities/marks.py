"""A mark of a policy: another one where a number of it is another."""

from __future__ import annotations

import hashlib

import torch

from mmrl.modalities.adapter import Adapter
from mmrl.modalities.shards import full


@torch.no_grad()
def mark_of_weights(adapter: Adapter) -> str:
    """16 letters of a hash over all tensors of the policy, frozen ones and buffers too: their types, shapes, bytes.

    Weights that are divided over processes have the mark of the whole ones; every process calls. A second or two for a
    gigabyte.
    """
    digest = hashlib.sha256()
    for tensor in adapter.weights():
        held = full(tensor).cpu().contiguous()
        digest.update(f"{held.dtype}{tuple(held.shape)}".encode())
        digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
