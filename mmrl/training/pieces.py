"""Tensors of a checkpoint of which each process holds some rows: a file of each, and any rows of them back.

torch's own distributed checkpoints are pickled, which nothing here reads, and their safetensors kind is for models: no
names of what an optimizer remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmrl.modalities.shards import first_row
from mmrl.training.tensors import CheckpointError

WHOLE = "trainer.safetensors"
# (all rows of a tensor) -> (the first that is wanted, the first behind them)
Wanted = Callable[[int], tuple[int, int]]


def rows_of(tensors: Mapping[str, Tensor], weights: Mapping[str, int]) -> dict[str, int]:
    """By name the tensors that are rows of a divided weight, or of something like it, and how many rows it has.

    weights: the same of the divided weights by their own names, each of which is a part of the tensor's name.
    """
    found = {}
    for name, tensor in tensors.items():
        rows = next((weights[part] for part in name.split("/") if part in weights), None)
        if rows is not None and tensor.ndim:
            found[name] = rows
    return found


def place(folder: Path, shard: int) -> Path:
    return folder / f"trainer_{shard:05d}.safetensors"


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)


def read(folder: Path, divided: Mapping[str, Any], weights: Mapping[str, int], wanted: Wanted) -> dict[str, Tensor]:
    """All tensors of a checkpoint; of those that are divided now (see rows_of) the wanted rows.

    divided: {"shards": how many files, "rows": {name: all rows}} of those that were divided when it was written, or {}.
    Raises CheckpointError where a divided weight had another number of rows.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        whole = stack.enter_context(safe_open(folder / WHOLE, framework="pt"))
        for name in whole.keys():  # noqa: SIM118  it is no dict
            shape = whole.get_slice(name).get_shape()
            like = torch.empty(shape, device="meta")
            rows = rows_of({name: like}, weights).get(name)
            if rows is None:
                found[name] = whole.get_tensor(name)
                continue
            _refuse_other(name, shape[0], rows)
            first, end = wanted(rows)
            found[name] = whole.get_slice(name)[first:end]
        files = [
            stack.enter_context(safe_open(place(folder, n), framework="pt")) for n in range(divided.get("shards", 0))
        ]
        for name, rows in divided.get("rows", {}).items():
            now = next((weights[part] for part in name.split("/") if part in weights), None)
            first, end = (0, rows) if now is None else wanted(rows)
            _refuse_other(name, rows, now)
            found[name] = torch.cat(list(_slices(files, name, rows, first, end)))
    return found


def _slices(files: list[Any], name: str, rows: int, first: int, end: int) -> Iterator[Tensor]:
    """Rows from `first` to `end` of a tensor, file by file; at least one piece, which may be empty."""
    starts = [first_row(rows, len(files), n) for n in range(len(files) + 1)]
    for number, file in enumerate(files):
        low, high = max(first, starts[number]), min(end, starts[number + 1])
        if low < high or number == 0:
            piece = file.get_slice(name)
            offset = starts[number]
            yield piece[low - offset : high - offset] if low < high else file.get_tensor(name)[:0]


def _refuse_other(name: str, rows: int, now: int | None) -> None:
    if now is not None and rows != now:
        raise CheckpointError(
            f"the checkpoint does not fit ({name}): it has {rows} rows, expected {now}. Resume with the model that the "
            "run began with"
        )
