"""What a checkpoint holds, put together by hand from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """All by name: those of trainer.safetensors, rows of several processes joined, and those that are in `policy/`."""
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    places = state.get("in_policy", {"tensors": {}})["tensors"]
    found = {name: load_file(checkpoint / "policy" / file)[key] for name, (file, key) in places.items()}
    divided = state.get("divided", {"shards": 0, "rows": {}})
    files = [load_file(checkpoint / f"trainer_{n:05d}.safetensors") for n in range(divided["shards"])]
    for name, rows in divided["rows"].items():
        size = -(-rows // len(files))
        parts = [file[name] if name in file else found[name][n * size :][:size] for n, file in enumerate(files)]
        found[name] = torch.cat(parts)
        assert len(found[name]) == rows, name
    return found | load_file(checkpoint / "trainer.safetensors")


def files(checkpoint: Path) -> dict[str, tuple[dict[str, Any], bytes]]:
    """(header, data) of every file of tensors: the format leaves the order of the metadata's keys open."""
    found = {}
    for path in sorted(checkpoint.rglob("*.safetensors")):
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        found[str(path.relative_to(checkpoint))] = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    return found


def in_one_file(checkpoint: Path) -> None:
    """As checkpoints were before tensors of `policy/` were left out: all tensors in trainer.safetensors."""
    save_file(
        {name: tensor.clone() for name, tensor in tensors(checkpoint).items()}, checkpoint / "trainer.safetensors"
    )
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    state.pop("in_policy", None)
    (checkpoint / "state.json").write_text(json.dumps(state), encoding="utf-8")
