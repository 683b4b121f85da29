"""Merging LoRA: the mean of the updates B·A, which is not the product of the mean matrices.

Matrices of the checkpoints stand beside each other: A = [A_1; A_2; ...], B = [w_1 s_1 B_1, w_2 s_2 B_2, ...], so that
B·A is the sum of w_i s_i B_i·A_i exactly; the rank is the sum of the ranks, and the scale s = alpha / rank is 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG = "adapter_config.json"  # of peft; diffusers has the same in the header of its file
HEADER = "lora_adapter_metadata"
DOWN, UP = ("lora_A", "lora_embedding_A"), ("lora_B", "lora_embedding_B")
# What makes a layer's update something else than alpha / rank * B·A, and its value where it does not.
PLAIN = {"use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False}


class MergeError(ValueError):
    """Checkpoints that cannot be merged; the message names the files and tensors."""


def is_lora(name: str) -> bool:
    """Whether a tensor of this name is one of the matrices."""
    return any(part in (*DOWN, *UP) for part in name.split("."))


def is_down(name: str) -> bool:
    return any(part in DOWN for part in name.split("."))


def shape(name: str, found: Sequence[int]) -> list[int]:
    """The shape without the rank, which checkpoints need not share."""
    sizes = list(found)
    del sizes[0 if is_down(name) else 1]
    return sizes


def joined(name: str, tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """The matrix of the merged update, in float32. factors: weight times scale of each checkpoint."""
    if is_down(name):
        return torch.cat([tensor.float() for tensor in tensors], 0).contiguous()
    return torch.cat([tensor.float() * factor for tensor, factor in zip(tensors, factors)], 1).contiguous()


def settings(folder: Path, header: Mapping[str, str] | None, name: str) -> dict[str, Any]:
    """The options of peft of the checkpoint's LoRA in a folder; {} where nothing names any. name: of a matrix.

    Raises MergeError for options under which the update is not alpha / rank * B·A.
    """
    if (folder / CONFIG).is_file():
        found: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    else:
        part = name.partition(".")[0]
        every = json.loads((header or {}).get(HEADER, "{}"))
        found = {k.removeprefix(f"{part}."): v for k, v in every.items() if k.startswith(f"{part}.")}
    for key, plain in PLAIN.items():
        if found.get(key) not in (None, plain):
            raise MergeError(f"{folder}: {key}={found[key]!r} makes updates that are no plain products; not merged")
    return found


def scale(options: Mapping[str, Any], rank: int) -> float:
    """alpha / rank; without options 1, as diffusers reads such files."""
    return float(options["lora_alpha"]) / float(options["r"]) if options else 1.0 if rank else 0.0


def merged_config(options: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """The options of the merged LoRA."""
    return {**options, "r": rank, "lora_alpha": rank}


def merged_header(header: Mapping[str, str] | None, rank: int) -> dict[str, str] | None:
    """The header of a file of diffusers with the merged rank in it; other headers as they are."""
    if not header or HEADER not in header:
        return dict(header) if header else None
    about = json.loads(header[HEADER])
    about |= {key: rank for key in about if key.rpartition(".")[2] in ("r", "lora_alpha")}
    return {**header, HEADER: json.dumps(about, sort_keys=True)}
